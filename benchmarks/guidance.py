"""Tokens and hours against quality kept: the table that users ask for, and the rule of thumb that it supports."""

import math
from collections.abc import Iterable, Sequence

from homodistil_hf.sweep.statistics import Record, Spread, over_seeds
from homodistil_hf.sweep.tables import macs_fraction, markdown_table, task_means, tokens_per_second

RATES = (1_000, 10_000, 100_000)
"""Tokens a second of other machines, for which hours are computed."""

_SIZES = (1 / 2, 1 / 4, 1 / 8)
_SIZE_TOLERANCE = 0.15


def size_of(record: Record) -> str | None:
    """The nearest of the sizes that the table is about, such as `1/4`; None for a student of another size."""
    fraction = macs_fraction(record)
    size = min(_SIZES, key=lambda size: abs(math.log(fraction / size)))
    return f"1/{round(1 / size)}" if abs(fraction / size - 1) < _SIZE_TOLERANCE else None


def kept(record: Record) -> float:
    """Masked-LM accuracy of a student as a share of its teacher's, on the same masks."""
    return record["evaluation"]["mlm_accuracy"] / record["teacher_evaluation"]["mlm_accuracy"]


def guidance_rows(records: Iterable[Record], teacher_scores: dict[str, float]) -> list[str]:
    """Lay out what a budget of tokens gives at each size.

    Args:
        records: of HomoDistil's students.
        teacher_scores: evaluation → mean of the teacher.

    Returns:
        `list[str]`: Markdown lines; none where there are no such students.
    """
    groups = _by_size_and_tokens(records)
    if not groups:
        return []
    other = [f"hours at {rate:,} tokens/s" for rate in RATES]
    names = [f"{name} kept" for name in teacher_scores]
    headings = ["encoder MACs", "tokens", "hours, measured", *other, "KL, nats", "accuracy kept", *names]
    rows = []
    for (size, num_tokens), group in groups.items():
        measured = Spread.of(tokens_per_second(record) for record in group).mean
        hours = [f"{num_tokens / rate / 3600:.2f}" for rate in (measured, *RATES)]
        accuracy = Spread.of(kept(record) for record in group).mean
        scores = [_score_kept(group, name, teacher) for name, teacher in teacher_scores.items()]
        kl = str(Spread.of(record["evaluation"]["kl"] for record in group))
        rows.append([size, f"{num_tokens / 1e6:.2f} M", *hours, kl, f"{accuracy:.1%}", *scores])
    return markdown_table(headings, rows)


def rule_of_thumb(records: Iterable[Record]) -> list[str]:
    """What doubling the tokens gives, by a least-squares line over the logarithm of the tokens.

    Args:
        records: of HomoDistil's students.

    Returns:
        `list[str]`: a Markdown line for each size that has two budgets or more.
    """
    groups = _by_size_and_tokens(records)
    lines = []
    for size in dict.fromkeys(size for size, _ in groups):
        points = [
            (math.log2(num_tokens), Spread.of(kept(record) for record in group).mean)
            for (own, num_tokens), group in groups.items()
            if own == size
        ]
        if len(points) > 1:
            gain = slope(points)
            low, high = (2 ** points[index][0] / 1e6 for index in (0, -1))
            lines.append(
                f"- {size}: twice the tokens add {100 * gain:.1f} points of accuracy kept, between {low:.2g} and "
                f"{high:.2g} million tokens ({len(points)} budgets); nothing is known beyond."
            )
    return lines


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the least-squares line through points."""
    mean_x, mean_y = (sum(point[index] for point in points) / len(points) for index in (0, 1))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def _by_size_and_tokens(records: Iterable[Record]) -> dict[tuple[str, int], list[Record]]:
    """Of cells of the same size and budget only those of the best arm and axes, by KL."""
    found: dict[tuple[str, int], list[Record]] = {}
    for group in over_seeds(records).values():
        size = size_of(group[0])
        if size is None:
            continue
        key = (size, group[0]["num_tokens"])
        if key not in found or _mean_kl(group) < _mean_kl(found[key]):
            found[key] = group
    return dict(sorted(found.items(), key=lambda item: (int(item[0][0][2:]), item[0][1])))


def _mean_kl(group: Sequence[Record]) -> float:
    return Spread.of(record["evaluation"]["kl"] for record in group).mean


def _score_kept(group: Sequence[Record], name: str, teacher: float) -> str:
    scores = [task_means(record)[name] for record in group if name in task_means(record)]
    return f"{Spread.of(scores).mean / teacher:.1%}" if scores else "–"
