"""A sweep's records as pictures: discrepancy over training, quality against parameters, quality against tokens.

Means over seeds, with a bar of one standard deviation. Which cells stand for an arm is `statistics.py`'s business;
drawing needs the `[report]` extra, see [`can_plot`].
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from .cells import Choice
from .folder import trained
from .statistics import Record, Spread, chosen, metric_of, over_seeds

Points: TypeAlias = Mapping[str, Sequence[tuple[float, Spread]]]


_KL = "held-out KL to the teacher, nats a masked token"


_WIDTH, _HEIGHT, _LEGEND_LINE = 9.0, 4.2, 0.2  # inches


_HEADROOM = 1.15


_LOGARITHMIC_FROM = 5.0


_LINE_STYLES = ("-", "--", ":", "-.")


_NUM_COLOURS = 10  # of matplotlib's cycle; then they come again


def plot_sweep(records: Iterable[Record], stem: Path, choice: Choice | None = None) -> list[Path]:
    """Draw what a sweep's records have to show.

    Args:
        records: of its cells.
        stem: of the images: `STEM-discrepancy.png`, `STEM-parameters.png`, `STEM-tokens.png`.
        choice: the search; only its best values are drawn.

    Returns:
        `list`: those that were drawn. The last two need an arm of several sizes, or of several budgets.
    """
    done = chosen(trained(records), choice)
    if not done:
        return []
    files = [draw_discrepancy(done, stem.with_name(f"{stem.name}-discrepancy.png"))]
    for name in COSTS:
        points = quality_points(done, name)
        if any(len({place for place, _ in values}) > 1 for values in points.values()):
            files.append(draw(points, stem.with_name(f"{stem.name}-{name}.png"), xlabel=f"million {name}"))
    return files


def draw_discrepancy(records: Iterable[Record], file: Path) -> Path:
    """Draw the held-out KL along each run.

    Args:
        records: of students.
        file: image to write. Where a student was cut before training, its first point may stand above the picture.

    Returns:
        `Path`: the image.
    """
    curves = discrepancy_curves(records)
    later = [spread.mean for points in curves.values() for _, spread in points[1:]]
    return draw(curves, file, xlabel="million tokens", top=_HEADROOM * max(later) if later else None)


def discrepancy_curves(records: Iterable[Record]) -> Points:
    """The held-out KL along each run.

    Args:
        records: of students.

    Returns:
        `dict`: label → (million tokens, spread over seeds), from step 0 on; steps that all seeds have.
    """
    curves = {}
    for group in over_seeds(records).values():
        per_step = group[0]["num_tokens"] / max(group[0]["num_steps"], 1)
        by_step = [{row["step"]: row["kl"] for row in record["evaluations"]} for record in group]
        steps = sorted(set.intersection(*map(set, by_step)))
        points = [(step * per_step / 1e6, Spread.of(curve[step] for curve in by_step)) for step in steps]
        curves[label_of(group[0])] = points
    return curves


def quality_points(records: Iterable[Record], cost: str) -> Points:
    """The final KL of each arm against a cost.

    Args:
        records: of students.
        cost: a key of `COSTS`.

    Returns:
        `dict`: arm, and its size or budget where these vary and are not the cost → (cost, spread over seeds), by cost.
    """
    records = list(records)
    fixed = COSTS["tokens" if cost == "parameters" else "parameters"]
    varies = len({fixed.words(record) for record in records}) > 1
    points: dict[str, list[tuple[float, Spread]]] = {}
    for group in over_seeds(records).values():
        spread = Spread.of(metric_of(record, "kl") for record in group)
        label = f"{group[0]['arm']}, {fixed.words(group[0])}" if varies else group[0]["arm"]
        points.setdefault(label, []).append((COSTS[cost].millions(group[0]), spread))
    return {label: sorted(values, key=lambda point: point[0]) for label, values in points.items()}


def label_of(record: Record) -> str:
    """What a record's curve is called.

    Args:
        record: of a student.

    Returns:
        `str`: its cell's name without the seed.
    """
    return ",".join(part for part in record["cell"].split(",") if not part.startswith("seed="))


def draw(points: Points, file: Path, *, xlabel: str, top: float | None = None) -> Path:
    """Draw one line for each name.

    Args:
        points: name → (place, KL).
        file: image to write.
        xlabel: what the places are.
        top: of the picture, nats; default: what the points need, on a logarithmic axis if the farthest student has
            five times the KL of the nearest.

    Returns:
        `Path`: the image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, max(_HEIGHT, _LEGEND_LINE * len(points))), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    for index, (label, values) in enumerate(points.items()):
        places, means = [place for place, _ in values], [spread.mean for _, spread in values]
        bars = [spread.std or 0.0 for _, spread in values]
        style = _LINE_STYLES[index // _NUM_COLOURS % len(_LINE_STYLES)]
        axes.errorbar(places, means, yerr=bars, linestyle=style, marker="o", markersize=3, capsize=2, label=label)
    axes.set(xlabel=xlabel, ylabel=_KL)
    kls = [spread.mean for values in points.values() for _, spread in values]
    if top is None and 0 < min(kls, default=0) < max(kls) / _LOGARITHMIC_FROM:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    else:
        axes.set_ylim(0, top)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(file, dpi=110)
    return file


@dataclass(frozen=True)
class Cost:
    """What a student, or its training, costs.

    Args:
        millions: of a record.
        words: the same for a legend, equal where the costs were asked to be.
    """

    millions: Callable[[Record], float]
    words: Callable[[Record], str]


def _num_parameters(record: Record) -> float:
    return record["models"]["student"]["num_parameters"] / 1e6


def _num_tokens(record: Record) -> float:
    return record["num_tokens"] / 1e6


COSTS = {
    "parameters": Cost(_num_parameters, lambda record: str(record["settings"]["student"])),
    "tokens": Cost(_num_tokens, lambda record: f"{_num_tokens(record):.2g} M tokens"),
}
"""Name of a cost → a record's."""
