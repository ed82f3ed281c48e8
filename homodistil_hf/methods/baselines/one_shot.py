"""Students that are cut out of the teacher before training, and then distilled with HomoDistil's loss.

One-shot pruning is the hard baseline. The student is cut to the plan before the first step, so all its tokens are
spent on the final width. But it starts far away from the teacher (HomoDistil, section 4.3: "one-shot pruning").
With as many tokens gradual pruning ends level with it in the planned shapes, ahead where many narrow layers stay: six
at a sixteenth of the MACs (three seeds; docs/results.md).
Cutting by weight magnitudes needs no data but the first batches, which rotate the heads (pruning/rotation.py) and
choose the layers, where fewer stay (pruning/layers.py).
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from typing_extensions import override

from ...export.facts import LOSSES_ALONE, MethodCard
from ...files.settings import setting
from ...homodistil_args import PAPER, AtOnceArguments
from ...trainer import UNITS, HomoDistilTrainer

_THEN_DISTILLED = "What was left, a smaller dense model, was then distilled with HomoDistil's losses."

NO_BASELINE = "baselines have one student; leave it out"
_OF_THE_PATH = {*AtOnceArguments.no_part, "num_scoring_batches"}


@dataclass
class OneShotArguments(AtOnceArguments):
    """Settings of [`HomoDistilTrainer`] without its schedule: everything is dropped before the first step."""

    no_part: ClassVar = AtOnceArguments.no_part | {"nested": NO_BASELINE}
    recipes: ClassVar = {"paper": {name: value for name, value in PAPER.items() if name not in _OF_THE_PATH}}


class OneShotTrainer(HomoDistilTrainer):
    """Score the units on a few batches, prune to the plan at once, then distil with the same loss.

    Constructor, learning-rate curve, checkpoints and exports are those of [`HomoDistilTrainer`].

    Raises:
        ValueError: as [`HomoDistilTrainer`], and where there are no batches to score.
    """

    method = "one_shot"
    arguments_class = OneShotArguments
    card = MethodCard(
        student="One-shot pruned student",
        made="made from {teacher} by pruning its width at once and distilling it afterwards",
        how=f"The student began as a copy of its teacher. Before training, its {UNITS} were scored on a few "
        f"batches, and the least important ones were dropped all at once. {_THEN_DISTILLED}",
        paper=LOSSES_ALONE,
        tags=("pruning", "distillation"),
    )

    @override
    def set_up_student(self) -> None:
        super().set_up_student()
        if self.args.importance_metric == "magnitude":
            self.card = replace(
                self.card,
                how=f"The student began as a copy of its teacher. Before training, those of its {UNITS} whose weights "
                f"have the smallest magnitudes were dropped all at once. {_THEN_DISTILLED}",
            )


@dataclass
class PrunedFirstArguments(AtOnceArguments):
    """Settings of [`HomoDistilTrainer`] without its schedule and its choice of scores: magnitudes."""

    no_part: ClassVar = OneShotArguments.no_part | {
        "importance_metric": "units are chosen by magnitude; leave it out",
        "num_scoring_batches": "magnitudes need no batch; leave it out",
    }
    importance_metric: Literal["sensitivity", "magnitude"] = setting("magnitude", "Always magnitude.")


class PrunedFirstTrainer(OneShotTrainer):
    """[`OneShotTrainer`] by the magnitudes of the teacher's weights, which need no scores of data."""

    method = "pruned_first"
    arguments_class = PrunedFirstArguments
    card = replace(
        OneShotTrainer.card,
        student="Magnitude-pruned student",
        made="made from {teacher} by pruning its width at once, by its weights alone, and distilling it afterwards",
    )
