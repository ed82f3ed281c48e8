"""Students of fewer layers: some of the teacher's are dropped at once, the others are as wide as the MACs allow.

The layers that stay become narrower by HomoDistil; `methods/fewer_layers.py` chooses them and plans their widths.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedModel

from ...export.facts import MethodCard
from ...files.settings import setting
from ...homodistil_args import HomoDistilTrainingArguments
from ...models.conversion import to_student
from ...models.loading import load_encoder
from ...models.widths import WidthPlan, widths_of
from ...trainer import UNITS, HomoDistilTrainer
from ...training.pair import Origins
from ..fewer_layers import Layers, start_shallow


@dataclass
class ShallowArguments(HomoDistilTrainingArguments):
    """Settings of [`HomoDistilTrainer`], and how many layers stay; these may become narrower at once, too."""

    no_part: ClassVar = {"nested": "baselines have one student; leave it out"}
    may_prune_at_once: ClassVar = True

    num_layers: int | None = setting(
        None,
        "Layers that stay, spread evenly, ≥ 1; default: as many as student names, or one fewer than the teacher's.",
        least=1,
    )


class ShallowTrainer(HomoDistilTrainer):
    """Drop layers at the start, prune the others to the plan's encoder MACs, and distil them.

    The loss, the schedule and all else are [`HomoDistilTrainer`]'s; `args.num_layers` stay, see [`start_shallow`].
    """

    starts_with_all_layers = False
    method = "shallow"
    arguments_class = ShallowArguments
    args: ShallowArguments
    card = MethodCard(
        student="Shallow HomoDistil student",
        made="made from {teacher} by leaving out layers, pruning the width of the others and distilling them",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        f"evenly over its depth. Of these the least important {UNITS} were dropped. What is left is a smaller dense "
        "model, distilled with HomoDistil's losses.",
        paper="The student was made by HomoDistil on fewer layers; HomoDistil is the method of",
        tags=("pruning", "distillation"),
    )

    def start_from(
        self, model: str | PreTrainedModel, teacher_model: str | PreTrainedModel | None, plan: WidthPlan | None
    ) -> Origins:
        """Leave layers out; arguments and return as [`DistillationTrainer.start_from`]."""
        args: Any = self.args
        if isinstance(model, str):
            model = load_encoder(model, token=args.hub_token, argument="model")
        whole = to_student(model, argument="model")
        self.check_possible(widths_of(whole.config), widths_of(whole.config))
        layers = Layers(args.num_layers, called="num_layers")
        student, planned, self.matched_layers = start_shallow(whole, args, layers=layers, plan=plan)
        args.student, args.num_layers = planned.to_json(), len(planned.layers)
        return student, teacher_model or whole, planned

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """A teacher of one layer has none to spare."""
        return "the teacher has one layer, none to spare; use HomoDistil itself" if len(teacher.layers) == 1 else None
