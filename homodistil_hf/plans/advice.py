"""Measured results for a size and a budget of tokens: a student's distance from its teacher, and its kept accuracy.

The measurements are those of docs/results.md, with one teacher on general text; `make pages` writes them into
`advice.json` beside this file. For a size that was not measured the advice names the measured sizes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..models.cost import encoder_macs
from ..models.widths import WidthPlan
from .budgets import NARROWEST_FFN, TOLERANCE, leaves_layers_open, share_as_budget

ADVICE_FILE = Path(__file__).with_name("advice.json")
_SAME_SIZE = math.log(1.4)
_NEAR_BUDGET = math.log(2)
_DEEPEST_MEASURED = 1 / 16
_LEVEL = 0.2
"""Share of encoder MACs from which on pruning at once ends level (docs/results.md)."""


@dataclass(frozen=True)
class Measured:
    """Result of the defaults with one size and one budget.

    Args:
        encoder_macs: the student's encoder MACs as a share of the teacher's, in (0, 1].
        num_tokens: tokens of a run.
        num_seeds: number of runs.
        shape: widths of the students' layers, a short plan such as `216-9x24-528`.
        kl: mean distance from the teacher, nats a masked token, on all held-out text if it was measured there.
        accuracy_kept: masked-LM accuracy as a share of the teacher's.
        glue_kept: mean over five GLUE tasks, fine-tuned beside the fine-tuned teacher, as a share of the teacher's;
            None: not tried.
        glue_above: the same, with 0 for a model that gives every row the most frequent label.
    """

    encoder_macs: float
    num_tokens: int
    num_seeds: int
    shape: str
    kl: float
    accuracy_kept: float
    glue_kept: float | None = None
    glue_above: float | None = None


def read_advice() -> tuple[str, list[Measured]]:
    """Read words for the teacher, and the measurements."""
    content = json.loads(ADVICE_FILE.read_text(encoding="utf-8"))
    return content["teacher"], [Measured(**point) for point in content["points"]]


def advise(fraction: float, num_tokens: float, *, measured: Sequence[Measured], teacher: str) -> str:
    """Return lines of text: the measurement nearest to a student and a budget, or that there is none.

    Args:
        fraction: the student's encoder MACs as a share of its teacher's, in (0, 1].
        num_tokens: tokens to train on, > 0.
        measured: all measurements.
        teacher: words for the teacher of the measurements.

    Example:
    ```python
    >>> point = Measured(0.25, 2_048_000, 3, "216-9x24-528", kl=0.23, accuracy_kept=0.94)
    >>> print(advise(0.25, 2e6, measured=[point], teacher="x"))
    advice for 2 M tokens, from runs of 2.05 M tokens to 216-9x24-528, 0.25 of the encoder MACs (3 seeds, teacher: x):
      it ended 0.230 nats from its teacher and kept 94 % of its masked-LM accuracy
      in such a run --method one_shot, which prunes before the first step, ends level with gradual pruning, sooner

    ```
    """
    check_num_tokens(num_tokens)
    budget = _millions(num_tokens)
    # sizes and budgets compare by ratio, hence the logarithms
    sized = [point for point in measured if abs(math.log(point.encoder_macs / fraction)) < _SAME_SIZE]
    if not sized:
        sizes = ", ".join(f"{size:.2f}" for size in sorted({round(point.encoder_macs, 2) for point in measured}))
        return (
            f"advice for {budget}: none, students of {fraction:.2f} of the encoder MACs were not measured (measured: "
            f"{sizes or 'nothing yet'})"
        )
    nearest = min(sized, key=lambda point: abs(math.log(point.num_tokens / num_tokens)))
    lines = [
        f"advice for {budget}, from runs of {_millions(nearest.num_tokens)} to {nearest.shape}, "
        f"{nearest.encoder_macs:.2f} of the encoder MACs ({nearest.num_seeds} seed{'s'[: nearest.num_seeds - 1]}, "
        f"teacher: {teacher}):",
        f"  it ended {nearest.kl:.3f} nats from its teacher and kept {nearest.accuracy_kept:.0%} of its masked-LM "
        "accuracy",
    ]
    if nearest.glue_kept is not None and nearest.glue_above is not None:
        lines.append(
            f"  fine-tuned beside its fine-tuned teacher it kept {nearest.glue_kept:.0%} of that one's mean over five "
            f"GLUE tasks, {nearest.glue_above:.0%} of what is above constant answers"
        )
    if fraction >= _LEVEL:
        lines.append(
            "  in such a run --method one_shot, which prunes before the first step, ends level with gradual pruning, "
            "sooner"
        )
    if abs(math.log(nearest.num_tokens / num_tokens)) > _NEAR_BUDGET:
        lines.append("  nothing was measured within a factor of 2 of your tokens, so take this as a direction only")
    return "\n".join(lines).replace("%", " %")


def _millions(num_tokens: float) -> str:
    value = num_tokens / 1e6
    return f"{value:,.0f} M tokens" if value >= 100 else f"{value:.3g} M tokens"


def depth_reason(student: str | float, plan: WidthPlan, teacher: WidthPlan) -> str | None:
    """Why the plan of a budget that names no layers has fewer than its teacher; None where it doesn't."""
    budget, is_shorter = share_as_budget(student), len(plan.layers) < len(teacher.layers)
    if not (is_shorter and isinstance(budget, str) and leaves_layers_open(budget)):
        return None
    kept, whole = len(plan.layers), len(teacher.layers)
    return (
        f"student={budget!r} keeps {kept} of {whole} layers: fewer, wider layers end closer to the teacher than "
        f"{whole} narrow ones; '{budget},layers={whole}' keeps all"
    )


def doubts(plan: WidthPlan, teacher: WidthPlan) -> list[str]:
    """Warnings about a student that is far smaller than any that was measured, as a whole or in its FFNs."""
    fraction, warnings = encoder_macs(plan) / encoder_macs(teacher), []
    if fraction < _DEEPEST_MEASURED * (1 - TOLERANCE):
        warnings.append(
            f"the student keeps {fraction:.3f} of its teacher's encoder MACs; nothing below {_DEEPEST_MEASURED:g} was "
            "measured, and so small a student keeps little of what its teacher knows"
        )
    kept, whole = (min(layer.intermediate_size for layer in one.layers) for one in (plan, teacher))
    if kept < NARROWEST_FFN * whole:
        warnings.append(
            f"the student's FFNs keep {kept:,} of {whole:,} neurons, as its other widths take the budget, and so few "
            "were never measured; ask for a larger budget or fewer layers, or leave plain out"
        )
    return warnings


def check_num_tokens(num_tokens: float | None) -> None:
    """Refuse a budget that is not above 0, or not finite."""
    if num_tokens is not None and not 0 < num_tokens < math.inf:
        raise ValueError(f"num_tokens={num_tokens} is not a positive number; give what you will train on, e.g. 2e6")
