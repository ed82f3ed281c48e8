"""Students of fewer layers: some of the teacher's are dropped at once, the others are as wide as the MACs allow.

They become narrower HomoDistil's way.
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
from ..training.distillation_trainer import DistillationTrainer
from ..training_args import HomoDistilTrainingArguments
from .conditions import with_settings


def shallow_parts(
    trainer: DistillationTrainer,
    model: str | PreTrainedModel,
    args: HomoDistilTrainingArguments,
    *,
    teacher: str | PreTrainedModel | None,
    num_layers: int | None,
    widths: str | Mapping[str, Any] | None,
    plan: WidthPlan | None,
) -> dict[str, Any]:
    """Leave layers out, and plan the others' widths so that they have the encoder MACs of the plan asked for.

    The layers that stay are spread evenly, the first and the last among them. A student layer's hidden states are
    compared with the teacher's in front of the next kept layer.

    Args:
        trainer: of the method; gets to know its `matched_layers`.
        model: what layers are left out of.
        args: the run's settings.
        teacher: who the student learns from. Default: all of `model`.
        num_layers: layers of the student, ≥ 1 and fewer than the teacher's. Default: one fewer.
        widths: of the layers that stay, a plan as in `resolve_plan`. Default: what the budget of MACs plans for them.
        plan: what `args.student` names, where that is resolved already.

    Returns:
        `dict`: `teacher`, `model` (the student), `args` and `plan`, as the constructor of a trainer takes them.

    Raises:
        ValueError: no such number of layers, too few of them for these MACs, `widths` with other MACs, or a latency
            budget.
    """
    whole = to_student(load_teacher(model, token=args.hub_token) if isinstance(model, str) else model)
    full = teacher_plan(whole.config)
    trainer.check_possible(full, full)
    kept = spread_layers(_checked(num_layers, len(full.layers)), len(full.layers))
    asked = plan or trainer.plan_of(args, whole.config)
    share = encoder_macs(asked) / encoder_macs(chosen(full, kept))
    if share > 1:
        raise ValueError(
            f"num_layers={len(kept)} of the teacher's {len(full.layers)} layers have only {1 / share:.2f} of the "
            f"encoder MACs that student={args.student} asks for; keep more layers"
        )
    student = keep_layers(whole, kept)
    if widths is None:
        budget = Budget("macs", round(share, 6), named_widths(args.student or ""))
        planned = plan_for_budget(budget, student.config, multiple=args.width_multiple)
    else:
        planned = resolve_plan(widths, student.config, multiple=args.width_multiple)
        error = encoder_macs(planned) / encoder_macs(teacher_plan(student.config)) / share - 1
        if abs(error) > MACS_TOLERANCE:
            raise ValueError(
                f"widths={shown(widths)} have {1 + error:.2f} of the encoder MACs that student={args.student} "
                f"asks for; nearest valid: within {MACS_TOLERANCE:.0%} of them, or no widths"
            )
    trainer.matched_layers = matched_layers(kept, len(full.layers))
    args = with_settings(args, student=planned.to_json())
    return {"teacher": teacher or whole, "model": student, "args": args, "plan": planned}


def none_to_spare(teacher: WidthPlan) -> str | None:
    """Why a teacher can't lose a layer, or None where it can."""
    return "the teacher has one layer, none to spare; use HomoDistil itself" if len(teacher.layers) == 1 else None


class ShallowTrainer(HomoDistilTrainer):
    """Drop layers at the start, prune the others to the plan's encoder MACs, and distil them.

    The loss, the schedule and all else are [`HomoDistilTrainer`]'s; the settings are those of [`shallow_parts`].
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
        parts = shallow_parts(self, model, args, teacher=teacher, num_layers=num_layers, widths=widths, plan=plan)
        super().__init__(**parts, **kwargs)
        self.method_settings = {"num_layers": len(self.plan.layers), "widths": widths}

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """A teacher of one layer has none to spare."""
        return none_to_spare(teacher)


def _checked(num_layers: int | None, num_all: int) -> int:
    num_layers = num_all - 1 if num_layers is None else num_layers
    if not 1 <= num_layers < num_all:
        raise ValueError(f"num_layers={num_layers} is outside [1, {num_all - 1}], the layers of a shallower student")
    return num_layers
