"""Students that are cut out of the teacher before training, and then distilled with HomoDistil's loss.

One-shot pruning is the hard opponent: the student is cut to the plan before training, so all its tokens are spent on
the final width; but it starts far away from the teacher (HomoDistil, section 4.3: "one-shot pruning"). Cutting by
weight magnitudes needs no data but the first batches by which heads are rotated, where they are.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ..export.card import UNITS, MethodCard
from ..models.widths import WidthPlan
from ..pruning.pruner import Pruner
from ..training_args import HomoDistilTrainingArguments
from .fewer_layers import none_to_spare, shallow_parts
from .fixed_width import HOMODISTIL_LOSSES, LOSSES_ALONE, PlannedTrainer


class OneShotTrainer(PlannedTrainer):
    """Score the units on a few batches without updates, prune to the plan at once, then distil with the same loss.

    Constructor, settings, learning-rate curve, checkpoints and exports are those of [`HomoDistilTrainer`]; the pruning
    windows shape the learning rate only.

    Args:
        model: the teacher.
        args: the run's settings.
        num_scoring_batches: training batches that the scores are taken from, ≥ 1. Default: 16.
        kwargs: as in [`HomoDistilTrainer`].
    """

    method = "one_shot"
    card = MethodCard(
        student="One-shot pruned student",
        made="made from {teacher} by pruning its width at once and distilling it afterwards",
        how=f"The student began as a copy of its teacher. Before training, its {UNITS} were scored on a few batches, "
        f"and the least important ones were dropped all at once. {HOMODISTIL_LOSSES}",
        paper=LOSSES_ALONE,
        tags=("pruning", "distillation"),
    )

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        num_scoring_batches: int = 16,
        **kwargs: Any,
    ):
        if num_scoring_batches < 1:
            raise ValueError(f"num_scoring_batches={num_scoring_batches} is below 1; scores need a batch, e.g. 16")
        super().__init__(model, args, **kwargs)
        self.num_scoring_batches = num_scoring_batches
        self.method_settings = {"num_scoring_batches": num_scoring_batches}

    def score_units(self, pruner: Pruner) -> None:
        """Score the units by the task's own loss on the first batches, without updates."""
        self.model.eval()
        batches = iter(self.get_train_dataloader())
        for _ in range(self.num_scoring_batches):
            fetched, _ = self.get_batch_samples(batches, 1, self.args.device)
            if not fetched:
                break
            # Of a copy of the teacher all other terms are 0, but for rounding that would be scored in their place.
            with self.accelerator.autocast(), self.distillation.own_term_alone():
                loss = self.compute_loss(self.model, self._prepare_inputs(fetched[0]))
            self.accelerator.backward(loss)
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
            pruner.score()
            self.model.zero_grad(set_to_none=True)
        self.batch_counts = None


class ShallowOneShotTrainer(OneShotTrainer):
    """Drop layers as [`ShallowTrainer`] does and prune the others at once, as [`OneShotTrainer`] does.

    `student` is the plan whose encoder MACs are met, with other widths.
    """

    has_all_layers = False
    method = "shallow_one_shot"
    card = MethodCard(
        student="Shallow one-shot pruned student",
        made="made from {teacher} by leaving out layers, pruning the width of the others at once and distilling them "
        "afterwards",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        f"evenly over its depth. Before training, its {UNITS} were scored on a few batches, and the least important "
        f"ones were dropped all at once. {HOMODISTIL_LOSSES}",
        paper=LOSSES_ALONE,
        tags=("pruning", "distillation"),
    )

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        teacher: str | PreTrainedModel | None = None,
        num_layers: int | None = None,
        widths: str | Mapping[str, Any] | None = None,
        num_scoring_batches: int = 16,
        plan: WidthPlan | None = None,
        **kwargs: Any,
    ):
        parts = shallow_parts(self, model, args, teacher=teacher, num_layers=num_layers, widths=widths, plan=plan)
        super().__init__(**parts, num_scoring_batches=num_scoring_batches, **kwargs)
        self.method_settings |= {"num_layers": len(self.plan.layers), "widths": widths}

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """A teacher of one layer has none to spare."""
        return none_to_spare(teacher)
