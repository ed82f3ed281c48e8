"""Fine-tuning beside a fine-tuned teacher: the student learns its predictions and hidden states on the task's rows.

Formulas stand in `distillation/losses.py`; rows, rates and steps are chosen in `own_task.py`.

Shapes: B batch, T tokens, H hidden.
"""

import itertools
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from ..distillation.losses import hidden_error, prediction_terms, regression_terms
from ..distillation.projections import Projections
from ..models.architectures import architecture_of

_FITTING_BATCHES = 16


class TaskDistillTrainer(Trainer):
    """A stock `Trainer` whose loss is the task's, the KL to a teacher and the error of every layer's hidden states.

    L = task + KL(p_t ‖ p_s) + Σ_k MSE(H_t^k, H_s^k W_k)   (HomoDistil, section 3, with the task's loss for the words')

    The projections W_k start as the least squares solution on the first batches. They are `model.projections`; the
    caller removes them.

    Args:
        teacher: sequence classifier of as many labels and layers.
        kwargs: as in `transformers.Trainer`; `model` is a sequence classifier.
    """

    def __init__(self, teacher: PreTrainedModel, **kwargs: Any):
        super().__init__(**kwargs)
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
        terms = regression_terms if self.teacher.config.num_labels == 1 else prediction_terms
        own, kl = terms(found["logits"], guide["logits"], inputs["labels"])
        mask_BT = read["attention_mask"]
        projections = self.accelerator.unwrap_model(model).projections.hidden
        states = zip(guide["hidden_states"][1:], projections, found["hidden_states"][1:], strict=True)
        hidden = sum(
            hidden_error(target, project(state), mask_BT, is_relative=self.is_pre_norm)
            for target, project, state in states
        )
        loss = (own + kl) / len(inputs["labels"]) + hidden / mask_BT.sum()
        return (loss, found) if return_outputs else loss

    @torch.no_grad()
    def _fitted_projections(self) -> Projections:
        """H_s W_k ≈ H_t by least squares over the tokens of a few batches, layer by layer."""
        # Rows: batches, then layers, then the states (student, teacher) of all tokens of a batch.
        model = self.model.eval()
        kept: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
        for batch in itertools.islice(self.get_train_dataloader(), _FITTING_BATCHES):
            read = {name: tensor.to(self.args.device) for name, tensor in batch.items() if name != "labels"}
            is_token_BT = read["attention_mask"].bool()
            pairs = [each(**read, output_hidden_states=True)["hidden_states"][1:] for each in (model, self.teacher)]
            kept.append(
                [(own[is_token_BT].cpu(), guide[is_token_BT].cpu()) for own, guide in zip(*pairs, strict=True)]
            )
        sizes = model.config.hidden_size, self.teacher.config.hidden_size
        projections = Projections(*sizes, num_hidden_layers=len(kept[0]), with_embedding=False)
        for project, layer in zip(projections.hidden, zip(*kept, strict=True), strict=True):
            own, guide = (torch.cat(states) for states in zip(*layer, strict=True))
            solution = torch.linalg.lstsq(own, guide, driver="gelsd").solution
            project.load_state_dict({"weight": solution.T})
        model.train()
        return projections
