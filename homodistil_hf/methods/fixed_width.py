"""Students that have their final widths from the first step on: what one-shot pruning and training from scratch share.

How units are chosen is the methods' business; everything else about such a run, from data to export, is
[`HomoDistilTrainer`]'s.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ..files.messages import shown
from ..models.families import family_of
from ..models.families.family import PROJECTIONS
from ..models.widths import WidthPlan
from ..trainer import HomoDistilTrainer
from ..training_args import LOSS_TERMS, HomoDistilTrainingArguments
from .conditions import check_masked_lm, with_settings

logger = logging.getLogger(__name__)

MlmTrains = Literal["student", "head"]
HOMODISTIL_LOSSES = "What was left, a smaller dense model, was then distilled with HomoDistil's losses."
LOSSES_ALONE = "The losses are HomoDistil's, its gradual pruning is not; HomoDistil is the method of"
FRESH = "The student began with random weights and kept none of the teacher's."
"""Words of the model cards that several methods share."""


class PlannedTrainer(HomoDistilTrainer):
    """A trainer that brings its student to the plan before the first step, by the scores that it has then."""

    has_started = False

    def prepare_student(self, *, is_new: bool) -> None:
        """Bring the student of a new run to its plan; arguments as [`HomoDistilTrainer.prepare_student`]."""
        self.prepare_heads(is_new=is_new)
        if is_new and not self.has_started:
            self.start_at_plan()
        self.has_started = True

    def start_at_plan(self) -> None:
        """Bring the student, a copy of the teacher so far, to the plan; subclasses may know more."""
        if not self.pruner.plan_reached:
            self.prune_at_once(self.pruner.final_plan())

    def prune_at_once(self, plan: WidthPlan) -> None:
        """Drop units down to a plan and remove them; nothing where the student has its widths already.

        Args:
            plan: the widths.
        """
        if self.pruner.plan_reached:
            return
        self.pruner.plan_reached = True
        self.pruner.prune_to(plan)
        self.pruner.compact(self.optimizer)
        logger.info("%s: pruned to %s", self.method, self.pruner.present.to_json())


class FreshTrainer(PlannedTrainer):
    """A trainer whose student has the plan's widths and random weights, as BERT starts.

    Args:
        model: the teacher.
        args: the run's settings; the loss weights in it are HomoDistil's and are replaced by the method's.
        loss_weights: of the loss's terms, those that the method has.
        mlm_trains: `"student"`: the masked-LM loss trains the whole student; `"head"`: only the masked-LM head and the
            word embeddings that are tied to it, and the rest learns from the method's own terms alone.
        kwargs: as in [`HomoDistilTrainer`].
    """

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
        for name, weight in loss_weights.items():
            if not weight >= 0:
                raise ValueError(f"{name}_weight={shown(weight)} is below 0; leave it at its default or set it to 0")
        if not any(loss_weights.values()):
            names = ", ".join(f"{name}_weight" for name in loss_weights)
            raise ValueError(f"{names} are all 0, so nothing would be learnt; leave one of them at its default")
        weights = {f"{name}_weight": loss_weights.get(name, 0.0) for name in LOSS_TERMS}
        super().__init__(model, with_settings(args, projection_init="random", **weights), **kwargs)
        check_masked_lm(self)
        # Its heads have never seen another scale than that of their own size.
        self.model.config.softmax_head_dim = None
        if mlm_trains == "head":
            self.model.get_submodule(family_of(self.model.config).mlm_transform).register_forward_pre_hook(
                _without_gradient
            )

    def prepare_heads(self, *, is_new: bool) -> None:
        """Nothing: random weights have no bases that are better than others."""

    def start_at_plan(self) -> None:
        """Cut the student to the plan, no matter which units, and draw its weights anew from the run's seed."""
        self.prune_at_once(self.plan)
        torch.manual_seed(self.args.seed)
        fresh = dict(type(self.model)(self.model.config).named_parameters())
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if name.startswith(f"{PROJECTIONS}."):
                    parameter.normal_(std=parameter.shape[1] ** -0.5)
                else:
                    parameter.copy_(fresh[name])


def _without_gradient(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    # A gradient of 0 and not none at all: DDP waits for every parameter's.
    return tuple(tensor.detach() + 0.0 * (tensor - tensor.detach()) for tensor in inputs)
