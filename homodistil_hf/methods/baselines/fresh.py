"""Students that have the plan's widths and random weights from the first step on: what their methods share.

Everything else about such a run, from data to export, is [`DistillationTrainer`]'s.
"""

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ...files.messages import shown
from ...models.architectures import architecture_of
from ...models.architectures.architecture import PROJECTIONS
from ...models.resizing import replace_parameters, write_plan
from ...training.distillation_trainer import DistillationTrainer
from ...training_args import LOSS_TERMS, HomoDistilTrainingArguments
from ..conditions import check_loss_weights, check_masked_lm
from ..run_arguments import with_settings

MlmTrains = Literal["student", "head"]
FRESH = "The student began with random weights and kept none of the teacher's."


class FreshTrainer(DistillationTrainer):
    """A trainer whose student has the plan's widths and random weights, as BERT starts.

    Args:
        model: the teacher.
        args: the run's settings; the loss weights in it are HomoDistil's and are replaced by the method's.
        loss_weights: of the loss's terms, those that the method has.
        mlm_trains: `"student"`: the masked-LM loss trains the whole student; `"head"`: only the masked-LM head and the
            word embeddings that are tied to it, and the rest learns from the method's own terms alone.
        kwargs: as in [`DistillationTrainer`].
    """

    learning_rate_share = 0.5  # what is best for pruned students is too much for random weights (docs/results.md)

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        loss_weights: Mapping[str, float],
        mlm_trains: MlmTrains = "student",
        **kwargs: Any,
    ):
        if mlm_trains not in ("student", "head"):
            raise ValueError(f"mlm_trains={shown(mlm_trains)} is not one of student, head")
        check_loss_weights(loss_weights)
        weights = {f"{name}_weight": loss_weights.get(name, 0.0) for name in LOSS_TERMS}
        super().__init__(model, with_settings(args, projection_init="random", **weights), **kwargs)
        check_masked_lm(self)
        whole = self.plan.traits.head_slot
        if whole and (other := next((layer for layer in self.plan.layers if layer.head_dim != whole), None)):
            raise ValueError(
                f"student head_dim={other.head_dim}, but fresh weights have no rotary positions to choose among; "
                f"nearest valid: {whole}"
            )
        # Its heads have never seen another scale than that of their own size.
        self.model.config.softmax_head_dim = None
        if mlm_trains == "head":
            architecture_of(self.model.config).mlm_entry(self.model).register_forward_pre_hook(_without_gradient)

    def start_student(self) -> None:
        """Give the student the plan's widths and weights drawn from the run's seed."""
        config = copy.deepcopy(self.model.config)
        write_plan(config, self.plan)
        torch.manual_seed(self.args.seed)
        drawn = {name: weight.detach() for name, weight in type(self.model)(config).named_parameters()}
        for name, weight in self.model.named_parameters():
            if name.startswith(f"{PROJECTIONS}."):
                drawn[name] = torch.empty(len(weight), self.plan.hidden_size)
                drawn[name].normal_(std=self.plan.hidden_size**-0.5)
        replace_parameters(self.model, drawn, plan=self.plan, optimizer=self.optimizer)
        self.kept_heads = [torch.arange(layer.num_attention_heads) for layer in self.plan.layers]


def _without_gradient(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    # A gradient of 0 and not none at all: DDP waits for every parameter's.
    return tuple(tensor.detach() + 0.0 * (tensor - tensor.detach()) for tensor in inputs)
