"""Students of fewer layers: the teacher's layers that stay, their widths, and the teacher's layers that they match."""

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedModel

from ..files.messages import short_repr
from ..models.cost import encoder_macs
from ..models.resizing import keep_layers, matched_layers, spread_layers
from ..models.widths import WidthPlan, chosen, of_architecture, widths_of
from ..plans.budgets import TOLERANCE, Budget, named_widths, plan_for_budget
from ..plans.resolve import resolve_plan
from ..training.pair import resolve_student
from ..training_args import DistillationArguments


class Layers(NamedTuple):
    """Which layers stay.

    Args:
        asked: how many, ≥ 1 and fewer than the teacher's, spread evenly, the first and the last among them; or which,
            rising, from 0; None: one fewer than the teacher's.
        called: the user's name for this argument, for messages.
    """

    asked: int | Sequence[int] | None = None
    called: str = "layers"

    def of(self, num_all: int) -> tuple[int, ...]:
        """Their indices, rising, among so many."""
        if self.asked is None or isinstance(self.asked, int):
            num_layers = num_all - 1 if self.asked is None else self.asked
            if not 1 <= num_layers < num_all:
                raise ValueError(
                    f"{self.called}={num_layers} is outside [1, {num_all - 1}], the layers of a shallower student"
                )
            return spread_layers(num_layers, num_all)
        # whatever is no list becomes (), which the next check refuses
        kept = tuple(self.asked) if isinstance(self.asked, list | tuple) else ()
        if not kept or len(kept) >= num_all or list(kept) != sorted(set(kept) & set(range(num_all))):
            raise ValueError(
                f"{self.called}={short_repr(self.asked)}: expected some, not all, of 0 … {num_all - 1}, rising, "
                "each once"
            )
        return kept


def start_shallow(
    model: PreTrainedModel,
    args: DistillationArguments,
    *,
    layers: Layers,
    plan: WidthPlan | None = None,
) -> tuple[PreTrainedModel, WidthPlan, tuple[int, ...]]:
    """Leave layers out, and plan the others' widths so that they have the encoder MACs of the plan asked for.

    A student layer's hidden states are compared with the teacher's in front of the next kept layer.

    Args:
        model: a student with all layers.
        args: the run's settings.
        layers: the layers that stay.
        plan: widths from `resolve_plan`. Default: resolved from `args.student`. Of fewer layers they are the student's
            widths, else the others' follow from the budget of MACs.

    Returns:
        `(student, plan, matched_layers)`: the layers that stay, as wide as in `model`; the widths that give them the
        wanted encoder MACs; the teacher's layer for each of the student's.

    Raises:
        ValueError: no such layers, too few layers for these MACs, or a latency budget.
    """
    full = widths_of(model.config)
    asked = plan or resolve_student(args, model.config, starts_with_all_layers=False)
    # a plan of fewer layers has their widths already
    if (number := len(asked.layers)) < len(full.layers):
        kept = layers._replace(asked=number if layers.asked is None else layers.asked).of(len(full.layers))
        if len(kept) != number:
            raise ValueError(
                f"{layers.called}={short_repr(layers.asked)}, but student={args.student} names {number} layers and "
                "their widths; leave one of both out"
            )
        # `resolve_student` leaves `plain` out where a student has fewer layers
        if args.plain:
            asked = resolve_plan(args.student or "", model.config, multiple=args.width_multiple, plain=True)
        student = keep_layers(model, kept)
        planned = of_architecture(asked, widths_of(student.config))
        return student, planned, matched_layers(kept, len(full.layers))
    kept = layers.of(len(full.layers))
    # the share of their MACs that the kept layers may keep; above 1 they are too few, however wide
    share = encoder_macs(asked) / encoder_macs(chosen(full, kept))
    if share > 1 + TOLERANCE:
        raise ValueError(
            f"{layers.called}={short_repr(layers.asked)} of {len(full.layers)} layers have only {1 / share:.2f} of "
            f"the encoder MACs that student={args.student} asks for; keep more layers"
        )
    student = keep_layers(model, kept)
    # within the tolerance a share may be above 1, which no budget is
    budget = Budget("macs", min(1.0, round(share, 6)), named_widths(args.student or ""))
    planned = plan_for_budget(budget, student.config, multiple=args.width_multiple, plain=args.plain)
    return student, planned, matched_layers(kept, len(full.layers))


def shallow_plan(plan: WidthPlan, teacher: WidthPlan) -> tuple[int, ...] | None:
    """Return the layers of a teacher, rising indices, that cost the encoder MACs of a narrow plan.

    None if no number of layers comes within `TOLERANCE`.

    Example:
    ```python
    >>> from homodistil_hf.models.widths import LayerWidths
    >>> teacher = WidthPlan.uniform(384, 6, LayerWidths(12, 32, 1536))
    >>> shallow_plan(WidthPlan.uniform(264, 6, LayerWidths(12, 22, 1112)), teacher)
    (0, 2, 5)
    >>> shallow_plan(WidthPlan.uniform(192, 6, LayerWidths(12, 16, 704)), teacher) is None
    True

    ```
    """
    asked = encoder_macs(plan)
    choices = [spread_layers(num_kept, len(teacher.layers)) for num_kept in range(1, len(teacher.layers) + 1)]
    # the number of whole layers whose MACs are nearest, if they are near enough
    best = min(choices, key=lambda layers: abs(encoder_macs(chosen(teacher, layers)) - asked))
    fits = abs(encoder_macs(chosen(teacher, best)) - asked) <= TOLERANCE * asked
    return best if fits else None
