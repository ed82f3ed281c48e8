"""Trainers whose student starts with some of the teacher's layers: what the shallow methods share.

For the same encoder MACs a student of fewer layers may be wider. How its widths are pruned is the methods' business
(`methods/`).
"""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from ..files.messages import shown
from ..models.conversion import to_student
from ..models.cost import encoder_macs
from ..models.loading import load_teacher
from ..models.resizing import keep_layers
from ..models.widths import WidthPlan, chosen, teacher_plan
from ..plans.budgets import named_widths
from ..plans.fewer_layers import MACS_TOLERANCE, matched_layers, spread_layers
from ..plans.resolve import resolve_plan
from ..trainer import HomoDistilTrainer
from ..training.student_plan import resolve_student
from ..training_args import HomoDistilTrainingArguments
from .conditions import check_no_latency_budget, check_no_snapshots, check_possible, with_settings


class FewerLayersTrainer(HomoDistilTrainer):
    """Start with a student of fewer layers, whose plan has the encoder MACs of the one that is asked for.

    The layers that stay are spread evenly, the first and the last among them. A student layer's hidden states are
    compared with the teacher's in front of the next kept layer.

    Args:
        model: the teacher.
        args: the run's settings; `student` is the plan whose encoder MACs are met, with other widths.
        num_layers: layers of the student, ≥ 1 and fewer than the teacher's. Default: one fewer.
        widths: of the layers that stay, a plan as in `resolve_plan`. Default: what the budget of MACs plans for them.
        kwargs: as in [`HomoDistilTrainer`].

    Raises:
        ValueError: no such number of layers, too few of them for these MACs, `widths` with other MACs, a latency
            budget, `attention_weight` or `snapshots`.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        num_layers: int | None = None,
        widths: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        check_no_snapshots(args)
        check_no_latency_budget(args)
        teacher = to_student(load_teacher(model, token=args.hub_token) if isinstance(model, str) else model)
        full = teacher_plan(teacher.config)
        check_possible(self.method, no_layer_to_spare(full, full))
        kept = spread_layers(_checked(num_layers, len(full.layers)), len(full.layers))
        share = encoder_macs(resolve_student(args, teacher.config)) / encoder_macs(chosen(full, kept))
        if share > 1:
            raise ValueError(
                f"num_layers={len(kept)} of the teacher's {len(full.layers)} layers have only {1 / share:.2f} of the "
                f"encoder MACs that student={args.student} asks for; keep more layers"
            )
        self.matched_layers = matched_layers(kept, len(full.layers))
        student = keep_layers(teacher, kept)
        budget = f"macs={share:.6f}{named_widths(args.student or '')}"
        plan = resolve_plan(budget if widths is None else widths, student.config, multiple=args.width_multiple)
        error = encoder_macs(plan) / encoder_macs(teacher_plan(student.config)) / share - 1
        if widths is not None and abs(error) > MACS_TOLERANCE:
            raise ValueError(
                f"widths={shown(widths)} have {1 + error:.2f} of the encoder MACs that student={args.student} asks "
                f"for; nearest valid: within {MACS_TOLERANCE:.0%} of them, or no widths"
            )
        super().__init__(student, with_settings(args, student=plan.to_json()), **{"teacher": teacher} | kwargs)
        self.method_settings = self.method_settings | {"num_layers": len(kept), "widths": widths}


def no_layer_to_spare(plan: WidthPlan, teacher: WidthPlan) -> str | None:
    """Why no student can have fewer layers than its teacher.

    Args:
        plan: unused, any plan.
        teacher: the teacher's widths.

    Returns:
        `str`, or None where one can.
    """
    return "the teacher has one layer, none to spare; use HomoDistil itself" if len(teacher.layers) == 1 else None


def _checked(num_layers: int | None, num_all: int) -> int:
    if num_layers is None:
        num_layers = num_all - 1
    if not 1 <= num_layers < num_all:
        raise ValueError(f"num_layers={num_layers} is outside [1, {num_all - 1}], the layers of a shallower student")
    return num_layers
