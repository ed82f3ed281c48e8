"""Fine-tuning beside a fine-tuned teacher: the student learns its predictions and hidden states on the task's rows.

Formulas stand in `distillation/losses.py`; rows, rates and steps are chosen in `own_task.py`.

Shapes: B batch, T tokens, H hidden.
"""

import itertools
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from ..distillation.losses import hidden_error
from ..distillation.projections import Projections
from ..distillation.tasks import sequence_task
from ..models.architectures import architecture_of

_FITTING_BATCHES = 16


class TaskDistillTrainer(Trainer):
    """A stock `Trainer` whose loss is the task's, the KL to a teacher and the error of every layer's hidden states.

    L = task + KL(p_t ‖ p_s) + Σ_k MSE(H_t^k, H_s^k W_k)   (HomoDistil, section 3, with the task's loss for the words')

    The projections W_k start as the least squares solution on the first batches. They are `model.projections`; the
    caller removes them.

    Args:
        teacher: sequence classifier of as many labels and layers, and of the same `problem_type`.
        kwargs: as in `transformers.Trainer`; `model` is a sequence classifier.

    Raises:
        ValueError: the teacher has another number of labels, or another `problem_type`.
    """

    def __init__(self, teacher: PreTrainedModel, **kwargs: Any):
        super().__init__(**kwargs)
        self.task = sequence_task(self.model.config)
        for name in ("num_labels", "problem_type"):
            given, own = (getattr(each.config, name) for each in (teacher, self.model))
            if sequence_task(teacher.config) != self.task and given != own:
                raise ValueError(f"teacher has {name}={given!r}, the model {own!r}; take a teacher of the same task")
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.is_pre_norm = architecture_of(teacher.config).is_pre_norm  # then no LayerNorm scales its states
        self.model.add_module("projections", self._fitted_projections().to(self.args.device))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch with labels; arguments and return as `Trainer.compute_loss`."""
        read = {name: tensor for name, tensor in inputs.items() if name != "labels"}
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
        states = zip(guide["hidden_states"][1:], projections, found["hidden_states"][1:], strict=True)
        hidden = sum(
            hidden_error(target, project(state), mask_BT, is_relative=self.is_pre_norm)
            for target, project, state in states
        )
        loss = (own + kl) / max(1, len(labels)) + hidden / mask_BT.sum()
        return (loss, found) if return_outputs else loss

    @torch.no_grad()
    def _fitted_projections(self) -> Projections:
        """H_s W_k ≈ H_t by least squares over the tokens of a few batches, layer by layer.

        Memory: one batch's hidden states of both models, and sums of 8·H_s·(H_s + H_t) bytes a layer on the host:
        113 MB for two BERT-base, whatever the batches' size.
        """
        model = self.model.eval()
        sums: list[torch.Tensor] = []
        num_tokens, size = 0, model.config.hidden_size
        for batch in itertools.islice(self.get_train_dataloader(), _FITTING_BATCHES):
            read = {name: tensor.to(self.args.device) for name, tensor in batch.items() if name != "labels"}
            is_token_BT = read["attention_mask"].bool()
            pairs = [each(**read, output_hidden_states=True)["hidden_states"][1:] for each in (model, self.teacher)]
            sums = sums or [torch.zeros(size, size + guide.shape[-1], dtype=torch.float64) for guide in pairs[1]]
            for total, *states in zip(sums, *pairs, strict=True):
                own, guide = (state[is_token_BT].cpu().double() for state in states)
                total += own.T @ torch.cat([own, guide], -1)
            num_tokens += int(is_token_BT.sum())
        sizes = size, self.teacher.config.hidden_size
        projections = Projections(*sizes, num_hidden_layers=len(sums), with_embedding=False)
        for project, total in zip(projections.hidden, sums, strict=True):
            project.load_state_dict({"weight": _least_squares(total, num_tokens).T})
        model.train()
        return projections


def _least_squares(sums: torch.Tensor, num_rows: int) -> torch.Tensor:
    """The W of the least norm that minimises ‖H W − T‖, from (HᵀH, HᵀT) side by side in float64.

    Directions in which H is no larger than float32's rounding of `num_rows` rows count as 0, as in a solution by H
    itself; in HᵀH sizes are squared.
    """
    size = len(sums)
    cutoff = (torch.finfo(torch.float32).eps * max(num_rows, size)) ** 2
    return torch.linalg.lstsq(sums[:, :size], sums[:, size:], rcond=cutoff, driver="gelsd").solution.float()
