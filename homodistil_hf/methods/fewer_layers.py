"""Students of fewer layers: some of the teacher's are dropped at once, the others are as wide as the MACs allow.

What is told here is which layers stay and how wide they are to become; they get there
HomoDistil's way; pruned at once they are a method of one-shot pruning.
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ..export.card import UNITS, MethodCard
from ..files.messages import shown
from ..models.conversion import to_student
from ..models.cost import encoder_macs
from ..models.loading import load_teacher
from ..models.resizing import keep_layers
from ..models.widths import WidthPlan, chosen, teacher_plan
from ..plans.budgets import Budget, named_widths, plan_for_budget
from ..plans.fewer_layers import MACS_TOLERANCE, matched_layers, spread_layers
from ..plans.resolve import resolve_plan
from ..trainer import HomoDistilTrainer
from ..training.student_plan import Goal
from ..training_args import HomoDistilTrainingArguments
from .conditions import with_settings


class FewerLayersTrainer(HomoDistilTrainer):
    """Start with a student of fewer layers, whose plan has the encoder MACs of the one that is asked for.

    The layers that stay are spread evenly, the first and the last among them. A student layer's hidden states are
    compared with the teacher's in front of the next kept layer.

    Args:
        model: the teacher.
        args: the run's settings; `student` is the plan whose encoder MACs are met, with other widths.
        num_layers: layers of the student, ≥ 1 and fewer than the teacher's. Default: one fewer.
        widths: of the layers that stay, a plan as in `resolve_plan`. Default: what the budget of MACs plans for them.
        goal: what `student` names, where that is resolved already.
        kwargs: as in [`HomoDistilTrainer`].

    Raises:
        ValueError: no such number of layers, too few of them for these MACs, `widths` with other MACs, a latency
            budget or `attention_weight`.
    """

    has_all_layers = False

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        num_layers: int | None = None,
        widths: str | Mapping[str, Any] | None = None,
        goal: Goal | None = None,
        **kwargs: Any,
    ):
        teacher = to_student(load_teacher(model, token=args.hub_token) if isinstance(model, str) else model)
        full = teacher_plan(teacher.config)
        self.check_possible(full, full)
        kept = spread_layers(_checked(num_layers, len(full.layers)), len(full.layers))
        share = encoder_macs((goal or self.goal_of(args, teacher.config)).plan) / encoder_macs(chosen(full, kept))
        if share > 1:
            raise ValueError(
                f"num_layers={len(kept)} of the teacher's {len(full.layers)} layers have only {1 / share:.2f} of the "
                f"encoder MACs that student={args.student} asks for; keep more layers"
            )
        self.matched_layers = matched_layers(kept, len(full.layers))
        student = keep_layers(teacher, kept)
        if widths is None:
            budget = Budget("macs", round(share, 6), named_widths(args.student or ""))
            plan = plan_for_budget(budget, student.config, multiple=args.width_multiple)
        else:
            plan = resolve_plan(widths, student.config, multiple=args.width_multiple)
            error = encoder_macs(plan) / encoder_macs(teacher_plan(student.config)) / share - 1
            if abs(error) > MACS_TOLERANCE:
                raise ValueError(
                    f"widths={shown(widths)} have {1 + error:.2f} of the encoder MACs that student={args.student} "
                    f"asks for; nearest valid: within {MACS_TOLERANCE:.0%} of them, or no widths"
                )
        args = with_settings(args, student=plan.to_json())
        super().__init__(student, args, goal=Goal(plan), **{"teacher": teacher} | kwargs)
        self.method_settings = self.method_settings | {"num_layers": len(kept), "widths": widths}

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """A teacher of one layer has none to spare."""
        return "the teacher has one layer, none to spare; use HomoDistil itself" if len(teacher.layers) == 1 else None


class ShallowTrainer(FewerLayersTrainer):
    """Drop layers at the start, then prune the others to the plan's encoder MACs while they are distilled.

    Arguments and errors as in [`FewerLayersTrainer`]; the loss, the schedule and all else are [`HomoDistilTrainer`]'s.
    """

    method = "shallow"
    card = MethodCard(
        student="Shallow HomoDistil student",
        made="made from {teacher} by leaving out layers and pruning the width of the others while distilling them",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        f"evenly over its depth. While it was distilled, its least important {UNITS} were dropped a few at a time, "
        "as in HomoDistil. What was left is a smaller dense model.",
        paper="The student was made by HomoDistil on fewer layers; HomoDistil is the method of",
        tags=("pruning", "distillation"),
    )


def _checked(num_layers: int | None, num_all: int) -> int:
    if num_layers is None:
        num_layers = num_all - 1
    if not 1 <= num_layers < num_all:
        raise ValueError(f"num_layers={num_layers} is outside [1, {num_all - 1}], the layers of a shallower student")
    return num_layers
