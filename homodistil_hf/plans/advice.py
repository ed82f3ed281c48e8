"""What was measured of a size and a budget of tokens: which way to prune, and what is kept.

The measurements are those of docs/results.md, with one teacher on general text; `make pages` writes them into
`advice.json` beside this file. Whatever is not measured is said to be so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files.strict_json import read_json_object

ADVICE_FILE = Path(__file__).with_name("advice.json")
_SAME_SIZE = math.log(1.4)
_NEAR_BUDGET = math.log(2)
_VERDICTS = {
    "homodistil": "the gradual one is nearer",
    "one_shot": "the one cut at once is nearer",
    "level": "within noise of each other: take either",
    None: "no verdict, as the noise was not measured: the default is to prune at once",
}


@dataclass(frozen=True)
class Measured:
    """What gradual pruning, HomoDistil's, and one-shot pruning reached with one size and one budget.

    Args:
        encoder_macs: share of the teacher's, in (0, 1].
        num_tokens: of a run.
        num_seeds: runs of each method.
        shape: of their layers, a short plan such as `216-9x24-528`.
        learning_rate: of HomoDistil's.
        pruning_end_fraction: of HomoDistil's, the share of the run at which pruning is over, in (0, 1].
        kl: HomoDistil's mean distance from its teacher, nats a masked token, on all held-out text if so measured.
        one_shot_kl: that of one-shot pruning.
        accuracy_kept: HomoDistil's masked-LM accuracy as a share of its teacher's.
        glue_kept: its mean over five GLUE tasks, likewise; None = not fine-tuned.
        one_shot_glue_kept: that of one-shot pruning.
        same_compute_gap: KL of one-shot pruning with as much computation instead of as many tokens, less HomoDistil's,
            in nats; None = not run.
        verdict: `homodistil`, `one_shot` or `level`: who is nearer to the teacher; None = the noise was not measured.
        fewer_layers: of HomoDistil on fewer layers, layers → KL less that on all, in nats; empty where it was not run.
        threshold: that these must exceed to count; None = the noise was not measured.
    """

    encoder_macs: float
    num_tokens: int
    num_seeds: int
    shape: str
    learning_rate: float
    pruning_end_fraction: float
    kl: float
    one_shot_kl: float
    accuracy_kept: float
    verdict: str | None
    fewer_layers: Mapping[str, float] = field(default_factory=dict)
    threshold: float | None = None
    glue_kept: float | None = None
    one_shot_glue_kept: float | None = None
    same_compute_gap: float | None = None


def read_advice(path: Path = ADVICE_FILE) -> tuple[str, list[Measured]]:
    """Read what was measured: words for the teacher, and the measurements.

    Raises:
        ValueError: other content than the package came with.
    """
    content = read_json_object(path, f"the package's file={str(path)!r}")
    try:
        return content["teacher"], [Measured(**point) for point in content["points"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"file={str(path)!r} is not what the package came with ({error}); install it again"
        ) from error


def advise(fraction: float, num_tokens: float, *, measured: Sequence[Measured], teacher: str) -> str:
    """Tell what is known of a student and a budget, in lines.

    Args:
        fraction: the student's encoder MACs as a share of its teacher's, in (0, 1].
        num_tokens: to be trained on, > 0.
        measured: what there is.
        teacher: words for the teacher that it was measured with.

    Example:
    ```python
    >>> figures = {"kl": 0.32, "one_shot_kl": 0.33, "accuracy_kept": 0.91, "verdict": "level"}
    >>> point = Measured(0.25, 2_048_000, 3, "192-8x24-704", 1.1e-3, 0.3, **figures)
    >>> print(advise(0.25, 2e6, measured=[point], teacher="x"))
    advice for 2 M tokens, from runs of 2.05 M tokens to 192-8x24-704, 0.25 of the encoder MACs (3 seeds, teacher: x):
      pruned gradually it ended 0.320 nats from its teacher, at once 0.330; within noise of each other: take either
      it kept 91 % of its teacher's masked-LM accuracy, with learning rate 0.0011, pruning until 0.3 of the run
      these runs scored units at every step; today's score first and prune at once: see docs/results.md

    ```
    """
    check_num_tokens(num_tokens)
    budget = _millions(num_tokens)
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
        f"  pruned gradually it ended {nearest.kl:.3f} nats from its teacher, at once {nearest.one_shot_kl:.3f}; "
        f"{_VERDICTS[nearest.verdict]}",
        f"  it kept {nearest.accuracy_kept:.0%} of its teacher's masked-LM accuracy, with learning rate "
        f"{nearest.learning_rate:g}, pruning until {nearest.pruning_end_fraction:g} of the run",
    ]
    if nearest.same_compute_gap is not None:
        lines.append(
            "  with as much computation instead of as many tokens the one pruned at once ended "
            f"{nearest.same_compute_gap:+.3f} nats from it"
        )
    if nearest.glue_kept is not None and nearest.one_shot_glue_kept is not None:
        lines.append(
            f"  fine-tuned it kept {nearest.glue_kept:.0%} of its teacher's mean over five GLUE tasks, "
            f"at once {nearest.one_shot_glue_kept:.0%}"
        )
    lines += [_of_fewer_layers(num_layers, gap, nearest) for num_layers, gap in nearest.fewer_layers.items()]
    if abs(math.log(nearest.num_tokens / num_tokens)) > _NEAR_BUDGET:
        lines.append("  nothing was measured within a factor of 2 of your tokens, so take this as a direction only")
    lines.append("  these runs scored units at every step; today's score first and prune at once: see docs/results.md")
    return "\n".join(lines).replace("%", " %")


def _of_fewer_layers(num_layers: str, gap: float, beside: Measured) -> str:
    if beside.threshold is None:
        words = "no verdict, as the noise was not measured: the default is to keep all layers"
    elif abs(gap) <= beside.threshold:
        words = "within noise: keep all layers"
    elif gap < 0:
        words = f'method=shallow, method_settings={{"num_layers": {num_layers}}}'
    else:
        words = "keep all layers"
    return (
        f"  HomoDistil on {num_layers} layers, wider ones for the same encoder MACs, ended {gap:+.3f} nats from that "
        f"on all: {words}"
    )


def _millions(num_tokens: float) -> str:
    value = num_tokens / 1e6
    return f"{value:,.0f} M tokens" if value >= 100 else f"{value:.3g} M tokens"


def check_num_tokens(num_tokens: float) -> None:
    """Refuse a budget that is not above 0, or not finite."""
    if not 0 < num_tokens < math.inf:
        raise ValueError(f"num_tokens={num_tokens} is not a positive number; give what you will train on, e.g. 2e6")


def to_json(teacher: str, measured: Sequence[Measured]) -> dict[str, Any]:
    """Lay measurements, in any order, out as `read_advice` reads them."""
    points = sorted(measured, key=lambda point: (point.encoder_macs, point.num_tokens))
    return {"teacher": teacher, "points": [vars(point) for point in points]}
