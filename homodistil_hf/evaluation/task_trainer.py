"""The trainers of a fine-tuning, alone or beside a fine-tuned teacher; a run that was stopped goes on bit for bit.

`fine_tuning.py` makes the model, the settings and the rows that they train.

Shapes: B batch, T tokens, H hidden.
"""

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import ProgressCallback

from ..files.checkpoints import SCORES_FILE
from ..files.field_checks import setting
from ..training.exact_trainer import ExactTrainer
from ..training.run_folder import RunFolder
from ..training_args import ExactArguments

logger = logging.getLogger(__name__)

_SECONDS_A_LINE = 30.0
_DRAWN_FROM = "order_rng_state"


@dataclass
class FineTuningArguments(ExactArguments):
    """Settings of a fine-tuning: those of any run that resumes bit for bit."""

    dataloader_drop_last: bool = setting(
        False, "Trainer's; few rows are all used, the last batch of a pass is smaller."
    )


class FineTuningTrainer(ExactTrainer):
    """Trains a model by the loss of its own class, to the weights of a stock `Trainer`; resumes bit for bit.

    Arguments are those of `transformers.Trainer`; `args` is a [`FineTuningArguments`].
    """

    method = "fine_tuning"
    resumed_from_state: torch.Tensor | None = None
    """State of the global generator from which the order of the resumed pass was drawn."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.run_folder = RunFolder(self.args)
        self.run_folder.how_to_resume = "the same command, for finetune with resume=true"

    def count(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Rows of a batch, int64 `(1,)`."""
        return torch.tensor([len(inputs["input_ids"])])

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch with labels; arguments and return as `Trainer.compute_loss`."""
        # As a stock Trainer, which counts `labels`; the positions of answers are none.
        num_labels = None if num_items_in_batch is None or "labels" not in inputs else num_items_in_batch[0]
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_labels)
        loss = self.own_share(loss, model)
        return (loss, outputs) if return_outputs else loss

    def own_share(self, loss: torch.Tensor, model: nn.Module) -> torch.Tensor:
        """Log this rank's share of the mean loss over the ranks, and return it as [`scale_and_log`]."""
        return self.scale_and_log(loss / self.accelerator.num_processes, {}, model)

    def begin_epoch(self) -> None:
        """Draw the order of a resumed pass once more: rows grouped by length use the global generator."""
        state, self.resumed_from_state = self.resumed_from_state, None
        if state is not None:
            torch.set_rng_state(state)
        self.drawn_from = torch.get_rng_state()
        super().begin_epoch()

    def tensors_to_save(self) -> dict[str, torch.Tensor]:
        """The state of the global generator before the order of this pass was drawn, or of the next one at its end."""
        is_pass_over = float(self.state.epoch or 0).is_integer()
        return {_DRAWN_FROM: torch.get_rng_state() if is_pass_over else self.drawn_from}

    def read_state(self, folder: Path) -> dict[str, Any]:
        """Also keep the generator's state for the pass to come."""
        self.resumed_from_state = load_file(folder / SCORES_FILE)[_DRAWN_FROM]
        return super().read_state(folder)


class FineTuningProgress(ProgressCallback):
    """Trainer's bar on a terminal; elsewhere a line of the log every half minute, with the seconds that are left."""

    def __init__(self) -> None:
        super().__init__()
        self.has_bar = sys.stderr.isatty()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the bar."""
        if self.has_bar:
            super().on_train_begin(args, state, control, **kwargs)
        self.first_step, self.start = state.global_step, time.monotonic()
        self.last_line = self.start

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar on, or log a line where it is time for one."""
        if self.has_bar:
            super().on_step_end(args, state, control, **kwargs)
        elif (now := time.monotonic()) - self.last_line >= _SECONDS_A_LINE:
            self.last_line = now
            left_s = (now - self.start) / (state.global_step - self.first_step) * (state.max_steps - state.global_step)
            logger.info("step %d of %d, %.0f s left", state.global_step, state.max_steps, left_s)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show no dictionary: results have a line of their own."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.has_bar:
            super().on_train_end(args, state, control, **kwargs)
