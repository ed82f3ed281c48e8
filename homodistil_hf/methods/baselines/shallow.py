"""Students of fewer layers: some of the teacher's are dropped at once, the others are as wide as the MACs allow.

They become narrower HomoDistil's way.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ...export.card import UNITS, MethodCard
from ...models.widths import WidthPlan
from ...trainer import HomoDistilTrainer
from ...training_args import HomoDistilTrainingArguments
from ..fewer_layers import Layers, shallow_parts


class ShallowTrainer(HomoDistilTrainer):
    """Drop layers at the start, prune the others to the plan's encoder MACs, and distil them.

    The loss, the schedule and all else are [`HomoDistilTrainer`]'s; the settings are `num_layers`, which stay,
    spread evenly (default: one fewer than the teacher's), and `widths`, see [`shallow_parts`].
    """

    has_all_layers = False
    method = "shallow"
    card = MethodCard(
        student="Shallow HomoDistil student",
        made="made from {teacher} by leaving out layers, pruning the width of the others and distilling them",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        f"evenly over its depth. Of these the least important {UNITS} were dropped. What is left is a smaller dense "
        "model, distilled with HomoDistil's losses.",
        paper="The student was made by HomoDistil on fewer layers; HomoDistil is the method of",
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
        plan: WidthPlan | None = None,
        **kwargs: Any,
    ):
        layers = Layers(num_layers, argument="num_layers")
        parts = shallow_parts(self, model, args, teacher=teacher, layers=layers, widths=widths, plan=plan)
        super().__init__(**parts, **kwargs)
        self.method_settings = {"num_layers": len(self.plan.layers), "widths": widths}

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """A teacher of one layer has none to spare."""
        return "the teacher has one layer, none to spare; use HomoDistil itself" if len(teacher.layers) == 1 else None
