"""Pruned first by weight magnitude, which needs no data, then distilled."""

from typing import Any

from transformers import PreTrainedModel

from ..export.card import UNITS, MethodCard
from ..training_args import HomoDistilTrainingArguments
from .conditions import with_settings
from .fixed_width import HOMODISTIL_LOSSES, LOSSES_ALONE, PlannedTrainer


class PrunedFirstTrainer(PlannedTrainer):
    """Prune the teacher to the plan by the magnitudes of its weights, which needs no scores of data, then distil.

    The loss, its weights and all else are [`HomoDistilTrainer`]'s; `importance_metric` is always `magnitude`.
    """

    method = "pruned_first"
    card = MethodCard(
        student="Magnitude-pruned student",
        made="made from {teacher} by pruning its width at once, without data, and distilling it afterwards",
        how=f"The student began as a copy of its teacher. Before training, those of its {UNITS} whose weights have "
        f"the smallest magnitudes were dropped all at once. {HOMODISTIL_LOSSES}",
        paper=LOSSES_ALONE,
        tags=("pruning", "distillation"),
    )

    def __init__(self, model: str | PreTrainedModel, args: HomoDistilTrainingArguments, **kwargs: Any):
        super().__init__(model, with_settings(args, importance_metric="magnitude"), **kwargs)
