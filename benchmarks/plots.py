"""Plots of the KL to the teacher, one line a variant: over the steps, or against anything else that has numbers.

Means, with a bar of one standard deviation. Drawing needs the `[report]` extra, see [`can_plot`].
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .spread import Spread

Points: TypeAlias = Mapping[str, Sequence[tuple[float, Spread]]]

_KL = "held-out KL to the teacher, nats a masked token"
_WIDTH, _HEIGHT, _LEGEND_LINE = 9.0, 4.2, 0.2  # inches
_DPI = 80
_LOGARITHMIC_FROM = 5.0
_LINE_STYLES = ("-", "--", ":", "-.")
_NUM_COLOURS = 10  # of matplotlib's cycle; then they come again
_MAX_NAMED = 6  # lines that have their name beside them; more have a box of names
_NAME_HEIGHT = 0.06  # of the picture's, so that names don't touch


def can_plot() -> bool:
    """Whether the `[report]` extra is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(points: Points, file: Path, *, xlabel: str, top: float | None = None) -> Path:
    """Draw one line for each name → (place, KL), with the names beside the lines' ends where they are few.

    Args:
        points: name → the points of its line.
        file: image to write.
        xlabel: label of the places.
        top: upper end of the picture, nats. Default: what the points need, on a logarithmic axis if the farthest
            student has five times the KL of the nearest.

    Raises:
        ValueError: the `[report]` extra is not installed.
    """
    if not can_plot():
        raise ValueError(
            f"path={str(file)!r}: plots need matplotlib; install it with pip install 'homodistil-hf[report]'"
        )
    from matplotlib.figure import Figure

    are_few = len(points) <= _MAX_NAMED
    height = max(_HEIGHT, _LEGEND_LINE * len(points) * (not are_few))
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, layout="constrained")
    axes: Any = figure.add_subplot()
    for index, (label, values) in enumerate(points.items()):
        places, means = [place for place, _ in values], [spread.mean for _, spread in values]
        bars = [spread.std or 0.0 for _, spread in values]
        # another style when the colours come again
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
    if are_few:
        _name_lines(axes, points)
    else:
        figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(file)
    return file


def _name_lines(axes: Any, points: Points) -> None:
    """Write each line's name at the right edge, as high as the line ends, in its colour; names make room above."""
    # data → shares of the picture
    to_picture = axes.transData + axes.transAxes.inverted()
    ends = {label: max(values, key=lambda point: point[0]) for label, values in points.items() if values}
    heights = {label: to_picture.transform((place, spread.mean))[1] for label, (place, spread) in ends.items()}
    colours = {container.get_label(): container.lines[0].get_color() for container in axes.containers}
    lowest = 0.0
    for label in sorted(heights, key=lambda label: heights[label]):
        height = max(heights[label], lowest)
        lowest = height + _NAME_HEIGHT
        place = {"xytext": (1.01, height), "textcoords": "axes fraction", "annotation_clip": False}
        axes.annotate(label, (*ends[label][:1], ends[label][1].mean), **place, color=colours[label], va="center")
