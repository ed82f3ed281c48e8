"""The trainers of a fine-tuning, alone or beside a fine-tuned teacher; a run that was stopped goes on bit for bit.

`fine_tuning.py` makes the model, the settings and the rows that they train.

Shapes: B batch, T tokens, H hidden.
"""

import itertools
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
from transformers import PreTrainedModel, ProgressCallback

from ..distillation.losses import hidden_error
from ..distillation.projections import LeastSquares, Projections
from ..distillation.tasks import task_of
from ..files.checkpoints import SCORES_FILE
from ..files.field_checks import setting
from ..models.architectures import architecture_of
from ..models.resizing import evenly_matched
from ..training.exact_trainer import ExactTrainer
from ..training.run_folder import RunFolder
from ..training_args import ExactArguments

logger = logging.getLogger(__name__)

_FITTING_BATCHES = 16
_SECONDS_A_LINE = 30.0
_DRAWN_FROM = "order_rng_state"
_PROJECTIONS = "projections"


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


class TaskDistillTrainer(FineTuningTrainer):
    """Trains by the task's loss, the KL to a teacher and the error of every layer's hidden states.

    L = task + KL(p_t ‖ p_s) + Σ_k MSE(H_t^k, H_s^k W_k)   (HomoDistil, section 3, with the task's loss for the words')

    Of a teacher with more layers those are compared that are spread evenly, see `evenly_matched`. The projections W_k
    start as the least squares solution on the first batches. They are `model.projections`; the
    caller removes them.

    Args:
        teacher: of the model's head, with as many labels, at least as many layers, and of the same `problem_type`.
        kwargs: as in `transformers.Trainer`.

    Raises:
        ValueError: the teacher has another number of labels, or another `problem_type`.
    """

    def __init__(self, teacher: PreTrainedModel, **kwargs: Any):
        super().__init__(**kwargs)
        self.task = task_of(self.model)
        for name in ("num_labels", "problem_type"):
            given, own = (getattr(each.config, name) for each in (teacher, self.model))
            if task_of(teacher) != self.task and given != own:
                raise ValueError(f"teacher has {name}={given!r}, the model {own!r}; take a teacher of the same task")
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.is_pre_norm = architecture_of(teacher.config).is_pre_norm  # then no LayerNorm scales its states
        numbers = [each.config.num_hidden_layers for each in (self.model, teacher)]
        self.matched_layers = evenly_matched(*numbers)
        projections = self._fitted_projections().to(self.args.device)
        self.fitted_state = torch.get_rng_state()
        self.model.add_module(_PROJECTIONS, projections)
        # A checkpoint has them beside the model, whose class has none.
        own = {f"{_PROJECTIONS}.{name}" for name in projections.state_dict()}
        self.model._keys_to_ignore_on_save = own.union(self.model._keys_to_ignore_on_save or ())

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch with labels; arguments and return as `Trainer.compute_loss`."""
        read = {name: tensor for name, tensor in inputs.items() if name not in self.task.label_names}
        with torch.no_grad(), self.accelerator.autocast():
            guide = self.teacher(**read, output_hidden_states=True)
        found = model(**read, output_hidden_states=True)
        counted = self.task.with_positions(inputs)
        rows, guide_rows, labels = (
            self.task.rows(found, counted),
            self.task.rows(guide, counted),
            self.task.labels(counted),
        )
        own, kl = self.task.terms(rows, guide_rows, labels)
        mask_BT = read["attention_mask"]
        projections = self.accelerator.unwrap_model(model).projections.hidden
        # the first states are the embeddings, which this loss doesn't compare
        states = zip(self._targets(guide), projections, found["hidden_states"][1:], strict=True)
        hidden = sum(
            hidden_error(target, project(state), mask_BT, is_relative=self.is_pre_norm)
            for target, project, state in states
        )
        # predictions are averaged over labels, hidden states over tokens
        loss = self.own_share((own + kl) / max(1, len(labels)) + hidden / mask_BT.sum(), model)
        return (loss, found) if return_outputs else loss

    def _targets(self, guide: Any) -> list[torch.Tensor]:
        """The teacher's states that the student's layers are compared with."""
        return [guide["hidden_states"][layer + 1] for layer in self.matched_layers]

    def begin_training(self) -> None:
        """Let the order of the rows follow on that of the batches for the projections, whose rows it would repeat."""
        super().begin_training()
        torch.set_rng_state(self.fitted_state)

    def tensors_to_save(self) -> dict[str, torch.Tensor]:
        """Also the projections."""
        weights = self.model.get_submodule(_PROJECTIONS).state_dict()
        return super().tensors_to_save() | {f"{_PROJECTIONS}.{name}": tensor.cpu() for name, tensor in weights.items()}

    def read_state(self, folder: Path) -> dict[str, Any]:
        """Also bring back the projections."""
        projections = self.model.get_submodule(_PROJECTIONS)
        # the model's own class has no projections, so it is read without them
        delattr(self.model, _PROJECTIONS)
        state = super().read_state(folder)
        saved = load_file(folder / SCORES_FILE)
        projections.load_state_dict({name: saved[f"{_PROJECTIONS}.{name}"] for name in projections.state_dict()})
        self.model.add_module(_PROJECTIONS, projections)
        return state

    @torch.no_grad()
    def _fitted_projections(self) -> Projections:
        """Projections by least squares over the tokens of a few batches, layer by layer."""
        model, found, labels = self.model.eval(), LeastSquares(), self.task.label_names
        for batch in itertools.islice(self.get_train_dataloader(), _FITTING_BATCHES):
            read = {name: tensor.to(self.args.device) for name, tensor in batch.items() if name not in labels}
            own, guide = (each(**read, output_hidden_states=True) for each in (model, self.teacher))
            found.add(own["hidden_states"][1:], self._targets(guide), read["attention_mask"].bool())
        sizes = model.config.hidden_size, self.teacher.config.hidden_size
        projections = Projections(*sizes, num_hidden_layers=len(found.sums), with_embedding=False)
        found.fit(projections.hidden)
        model.train()
        return projections
