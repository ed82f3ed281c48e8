"""Students that are cut out of the teacher before training, and then distilled with HomoDistil's loss.

One-shot pruning is the hard opponent: the student is cut to the plan before the first step, so all its tokens are
spent on the final width; but it starts far away from the teacher (HomoDistil, section 4.3: "one-shot pruning").
Cutting by weight magnitudes needs no data but the first batches by which heads are rotated, where they are.
"""

from typing import Any

from transformers import PreTrainedModel

from ...export.card import LOSSES_ALONE, PRUNED_AT_ONCE, THEN_DISTILLED, UNITS, MethodCard
from ...trainer import HomoDistilTrainer
from ...training_args import PRUNING_KINDS, HomoDistilTrainingArguments
from ..run_arguments import with_settings


class OneShotTrainer(HomoDistilTrainer):
    """Score the units on a few batches, prune to the plan at once, then distil with the same loss.

    Constructor, settings, learning-rate curve, checkpoints and exports are those of [`HomoDistilTrainer`]; the pruning
    windows are empty, so that everything is dropped before the first step.

    Args:
        model: the teacher.
        args: the run's settings.
        kwargs: as in [`HomoDistilTrainer`].

    Raises:
        ValueError: as [`HomoDistilTrainer`], and where there are no batches to score.
    """

    method = "one_shot"
    card = PRUNED_AT_ONCE

    def __init__(self, model: str | PreTrainedModel, args: HomoDistilTrainingArguments, **kwargs: Any):
        super().__init__(model, at_once(args), **kwargs)
        if not args.num_scoring_batches and self.pruner.scores.needs_gradients:
            raise ValueError(
                "num_scoring_batches=0 leaves one-shot pruning without scores; score a batch at least, e.g. 16"
            )


class PrunedFirstTrainer(HomoDistilTrainer):
    """Prune the teacher to the plan by the magnitudes of its weights, which needs no scores of data, then distil.

    The loss, its weights and all else are [`HomoDistilTrainer`]'s; `importance_metric` is always `magnitude`.
    """

    method = "pruned_first"
    card = MethodCard(
        student="Magnitude-pruned student",
        made="made from {teacher} by pruning its width at once, without data, and distilling it afterwards",
        how=f"The student began as a copy of its teacher. Before training, those of its {UNITS} whose weights have "
        f"the smallest magnitudes were dropped all at once. {THEN_DISTILLED}",
        paper=LOSSES_ALONE,
        tags=("pruning", "distillation"),
    )

    def __init__(self, model: str | PreTrainedModel, args: HomoDistilTrainingArguments, **kwargs: Any):
        super().__init__(model, with_settings(at_once(args), importance_metric="magnitude"), **kwargs)


def at_once(args: HomoDistilTrainingArguments) -> HomoDistilTrainingArguments:
    """Copy settings, with windows that end before the first step."""
    own = {f"{kind}_{end}_fraction": None for kind in PRUNING_KINDS for end in ("start", "end")}
    return with_settings(args, pruning_start_fraction=0.0, pruning_end_fraction=0.0, **own)
