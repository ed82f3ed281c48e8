"""The moments of a run that Trainer offers to callbacks only, as calls of its trainer's methods."""

from typing import Any, Protocol

from transformers import TrainerCallback


class Hooks(Protocol):
    """What a trainer does at these moments."""

    def begin_training(self) -> None:
        """Before the first step."""

    def begin_epoch(self) -> None:
        """Before a pass."""

    def begin_step(self) -> None:
        """Before a step."""

    def end_step(self) -> None:
        """After a step."""

    def end_epoch(self) -> None:
        """After a pass."""


class Moments(TrainerCallback):
    """Calls the trainer at these moments."""

    def __init__(self, trainer: Hooks):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The length of the run is known."""
        self.trainer.begin_training()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A pass begins."""
        self.trainer.begin_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step begins."""
        self.trainer.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step ends, before log, evaluation and save."""
        self.trainer.end_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A pass ends."""
        self.trainer.end_epoch()
