"""Plots of a sweep: discrepancy over training, quality against parameters and tokens.

`tables.py` finds the cells of a variant, `benchmarks/plots.py` draws.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.plots import Points, draw
from benchmarks.sweep.cells import Choice
from benchmarks.sweep.folder import trained
from benchmarks.sweep.tables import Record, chosen, over_seeds

from ..spread import Spread

_HEADROOM = 1.15

_MILLIONS: dict[str, Callable[[Record], float]] = {
    "parameters": lambda record: record["models"]["student"]["num_parameters"] / 1e6,
    "tokens": lambda record: record["num_tokens"] / 1e6,
}
"""Cost → a record's, in millions."""

_AT_EQUAL: dict[str, Callable[[Record], str]] = {
    "parameters": lambda record: f"{_MILLIONS['tokens'](record):.2g} M tokens",
    "tokens": lambda record: str(record["settings"]["student"]),
}
"""Cost → the other one in words, equal where that was asked to be."""


def plot_sweep(records: Iterable[Record], stem: Path, choice: Choice | None = None) -> list[Path]:
    """Draw what a sweep's records have to show, of a search the best values only.

    The images are `STEM-discrepancy.png` and, where a variant has several sizes or budgets, `STEM-parameters.png` and
    `STEM-tokens.png`.
    """
    done = chosen(trained(records), choice)
    if not done:
        return []
    files = [draw_discrepancy(done, stem.with_name(f"{stem.name}-discrepancy.png"))]
    for name in _MILLIONS:
        points = quality_points(done, name)
        if any(len({place for place, _ in values}) > 1 for values in points.values()):
            files.append(draw(points, stem.with_name(f"{stem.name}-{name}.png"), xlabel=f"million {name}"))
    return files


def draw_discrepancy(records: Iterable[Record], file: Path) -> Path:
    """Draw the held-out KL along each run.

    Where a student was cut before training, its first point may stand above the picture.
    """
    curves = discrepancy_curves(records)
    later = [spread.mean for points in curves.values() for _, spread in points[1:]]
    return draw(curves, file, xlabel="million tokens", top=_HEADROOM * max(later) if later else None)


def discrepancy_curves(records: Iterable[Record]) -> Points:
    """The held-out KL along each run.

    Returns:
        `dict`: cell without its seed → (million tokens, spread over seeds), from step 0 on; steps that all seeds have.
    """
    curves = {}
    for group in over_seeds(records):
        per_step = group[0]["num_tokens"] / max(group[0]["num_steps"], 1)
        by_step = [{row["step"]: row["kl"] for row in record["evaluations"]} for record in group]
        steps = sorted(set.intersection(*map(set, by_step)))
        label = ",".join(part for part in group[0]["cell"].split(",") if not part.startswith("seed="))
        curves[label] = [(step * per_step / 1e6, Spread.of(curve[step] for curve in by_step)) for step in steps]
    return curves


def quality_points(records: Iterable[Record], cost: str) -> Points:
    """The final KL of each variant against a cost, `"parameters"` or `"tokens"`.

    Returns:
        `dict`: variant, with size or budget where they vary and are not the cost → (cost, spread of seeds), by cost.
    """
    records = list(records)
    varies = len(set(map(_AT_EQUAL[cost], records))) > 1
    points: dict[str, list[tuple[float, Spread]]] = {}
    for group in over_seeds(records):
        spread = Spread.of(record["evaluation"]["kl"] for record in group)
        label = f"{group[0]['variant']}, {_AT_EQUAL[cost](group[0])}" if varies else group[0]["variant"]
        points.setdefault(label, []).append((_MILLIONS[cost](group[0]), spread))
    return {label: sorted(values, key=lambda point: point[0]) for label, values in points.items()}
