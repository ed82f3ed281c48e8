"""Pictures as SVG text: lines over steps, and the widths of a student's layers inside its teacher's.

A picture is a string without scripts and fonts, with colours for light and dark screens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..files.strict_json import fits

Line = Sequence[tuple[float, float]]
"""Points (step, value)."""

NUM_COLOURS = 6
_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 30, 34
_LEGEND_HEIGHT = 16


def line_chart(
    title: str,
    lines: Mapping[str, Line],
    *,
    level: float | None = None,
    is_share: bool = False,
) -> str:
    """Draw lines over the steps of a run; empty where no line has two points.

    Args:
        title: above the picture.
        lines: name → points by step. Names are shown where there are several.
        level: a dashed line, the teacher's value.
        is_share: whether values are of [0, 1] and shown as percent, from 0 on.

    Returns:
        `str`: an `svg` element.
    """
    lines = {name: points for name, points in lines.items() if points}
    if all(len(points) < 2 for points in lines.values()):
        return ""
    values = [value for points in lines.values() for _, value in points]
    low, high = _span(values if level is None else [*values, level], is_share=is_share)
    last = max(step for points in lines.values() for step, _ in points) or 1.0
    height = _HEIGHT + _LEGEND_HEIGHT * (math.ceil(len(lines) / 2) if len(lines) > 1 else 0)

    def place(step: float, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        # SVG counts downwards from the top
        return f"{x:.1f},{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low):.1f}"

    parts = [f'<text class="title" x="0" y="14">{escape(title)}</text>']
    for mark in _marks(low, high):
        start, end = place(0, mark), place(last, mark)
        words = f"{100 * mark:.4g} %" if is_share else f"{mark:.4g}"
        x, y = start.split(",")
        parts.append(f'<path class="grid" d="M{start}L{end}"/>')
        parts.append(f'<text x="{float(x) - 5:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">{words}</text>')
    for step, anchor in ((0, "start"), (last, "end")):
        x = place(step, low).split(",")[0]
        words = f"{step:,.0f}" if step else "step 0"
        parts.append(f'<text x="{x}" y="{_HEIGHT - 14}" text-anchor="{anchor}">{words}</text>')
    if level is not None:
        parts.append(f'<path class="level" d="M{place(0, level)}L{place(last, level)}"/>')
    legend = []
    for index, (name, points) in enumerate(lines.items()):
        colour = f"var(--c{index % NUM_COLOURS})"
        places = [place(step, value) for step, value in points]
        x, y = places[0].split(",")
        point = f'<circle cx="{x}" cy="{y}" r="3" style="fill:{colour}"/>'
        line = f'<path class="line" style="stroke:{colour}" d="M{"L".join(places)}"/>'
        parts.append(line if len(places) > 1 else point)
        # names stand below the picture, two in a row
        left, top = (index % 2) * _WIDTH / 2, _HEIGHT + 2 + _LEGEND_HEIGHT * (index // 2)
        legend.append(f'<rect x="{left:.0f}" y="{top - 3:.0f}" width="12" height="4" style="fill:{colour}"/>')
        legend.append(f'<text x="{left + 18:.0f}" y="{top + 4:.0f}">{escape(name)}</text>')
    return _svg(_WIDTH, height, [*parts, *(legend if len(lines) > 1 else ())], title)


def width_charts(student: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> list[str]:
    """Draw the widths of each layer of a student, in front of those of its teacher.

    `student` and `teacher` are sections of facts, with `plan` and `num_hidden_layers`.

    Returns:
        `list`: two `svg` elements, of attention channels and of FFN neurons; none without a plan.
    """
    own, full = _layers(student), _layers(teacher or {})
    pictures = []
    for index, label in enumerate(("attention channels", "FFN neurons") if own else ()):
        most = max(layer[index] for layer in [*own, *full]) or 1
        places = len(full) or len(own)
        widest = f"{max(layer[index] for layer in own):,}" + (f" of the teacher's {most:,}" if full else "")
        parts = [
            f'<text class="title" x="0" y="14">{label} by layer: {widest}</text>',
            *_bars([layer[index] for layer in full], most, 'class="whole"', places),
            *_bars([layer[index] for layer in own], most, 'style="fill:var(--c0)"', places),
            f'<text x="0" y="{_HEIGHT - 6}">layer 0</text>',
            f'<text x="{_WIDTH}" y="{_HEIGHT - 6}" text-anchor="end">layer {places - 1}</text>',
        ]
        pictures.append(_svg(_WIDTH, _HEIGHT, parts, label))
    return pictures


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> str:
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {box} role="img" aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'


def _bars(sizes: Sequence[int], most: int, look: str, num_places: int) -> Iterator[str]:
    top, bottom = _TOP, _HEIGHT - 22
    pitch = _WIDTH / max(num_places, 1)
    for index, size in enumerate(sizes):
        height = (bottom - top) * size / most
        yield (
            f'<rect {look} x="{(index + 0.1) * pitch:.1f}" y="{bottom - height:.1f}" '
            f'width="{0.8 * pitch:.1f}" height="{height:.1f}"><title>layer {index}: {size:,}</title></rect>'
        )


def _layers(section: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Attention channels and FFN neurons of each layer of a section of facts; none without a plan."""
    plan = section.get("plan")
    if not isinstance(plan, Mapping):
        return []
    layers = plan.get("layers") or [plan] * int(section.get("num_hidden_layers") or 0)
    if not fits(layers, [dict.fromkeys(("num_attention_heads", "head_dim", "intermediate_size"), int)]):
        return []
    return [(layer["num_attention_heads"] * layer["head_dim"], layer["intermediate_size"]) for layer in layers]


def _span(values: Sequence[float], *, is_share: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if is_share:
        return min(0.0, low), max(high, low + 0.01)
    # a level line gets some height, too
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - margin), high + margin


def _marks(low: float, high: float) -> list[float]:
    """Three to six round values between the ends."""
    # 1 ≤ (high - low) / unit < 10: the smallest round part of the unit that leaves few marks
    unit = 10 ** math.floor(math.log10(high - low))
    step = next(part * unit for part in (0.2, 0.25, 0.5, 1, 2) if (high - low) / (part * unit) <= 5.5)
    first = math.ceil(low / step - 1e-9)
    return [step * index for index in range(first, math.floor(high / step + 1e-9) + 1)]
