"""Tokens and time against quality kept: the table that users ask for, and the rule of thumb that it supports."""

import itertools
import math
import statistics
from collections.abc import Container, Iterable, Sequence

from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.experiments.sweep.statistics import Record, Spread, over_seeds, seed_of
from homodistil_hf.experiments.sweep.tables import macs_fraction, markdown_table, task_means, tokens_per_second

RATES = (1_000, 10_000, 100_000)
"""Tokens a second of other machines, for which times are computed."""

ALL = "all"
"""Layers of a student that keeps its teacher's."""

_SIZES = (1 / 2, 1 / 4, 1 / 8)
_SIZE_TOLERANCE = 0.15


def size_of(record: Record) -> str | None:
    """The nearest of the sizes that the table is about, such as `1/4`; None for a student of another size."""
    fraction = macs_fraction(record)
    size = min(_SIZES, key=lambda size: abs(math.log(fraction / size)))
    return f"1/{round(1 / size)}" if abs(fraction / size - 1) < _SIZE_TOLERANCE else None


def shape_of(record: Record) -> str:
    """A uniform student's widths as a short plan, such as `192-8x24-704`."""
    return "{hidden_size}-{num_attention_heads}x{head_dim}-{intermediate_size}".format(**record["plan"])


def by_student(records: Iterable[Record]) -> dict[tuple[str, int, str], list[Record]]:
    """Records by size, tokens and the student that was asked for."""
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for record in records:
        groups.setdefault((*budget_of(record), record["settings"]["student"]), []).append(record)
    return groups


def budget_of(record: Record) -> tuple[str, int]:
    """A student's size and its tokens."""
    return size_of(record) or "–", record["num_tokens"]


def setting_of(record: Record, name: str) -> float:
    """What a run was given, or had by default."""
    return float(record["settings"].get(name, getattr(HomoDistilTrainingArguments, name)))


def kept(record: Record) -> float:
    """Masked-LM accuracy of a student as a share of its teacher's, on the same masks."""
    return record["evaluation"]["mlm_accuracy"] / record["teacher_evaluation"]["mlm_accuracy"]


def guidance_rows(
    records: Iterable[Record], teacher_scores: dict[str, float], planned: Container[str] = ()
) -> list[str]:
    """Lay out what a budget of tokens gives at each size.

    Args:
        records: of HomoDistil's students.
        teacher_scores: evaluation → mean of the teacher.
        planned: shapes that are planned by default; of a size and budget they come before others.

    Returns:
        `list[str]`: Markdown lines; none where there are no such students.
    """
    groups = _best(records, planned)
    if not groups:
        return []
    other = [f"minutes at {rate:,} tokens/s" for rate in RATES]
    names = [f"{name} kept" for name in teacher_scores]
    headings = [
        "encoder MACs",
        "layers",
        "shape",
        "tokens",
        "minutes, measured",
        *other,
        "KL, nats",
        "accuracy kept",
        *names,
    ]
    rows = []
    for (size, layers, _, num_tokens), group in groups.items():
        measured = statistics.median(tokens_per_second(record) for record in group)
        minutes = [f"{num_tokens / rate / 60:.1f}" for rate in (measured, *RATES)]
        accuracy = Spread.of(kept(record) for record in group).mean
        scores = [_score_kept(group, name, teacher) for name, teacher in teacher_scores.items()]
        kl = str(Spread.of(record["evaluation"]["kl"] for record in group))
        tokens = f"{num_tokens / 1e6:.2f} M"
        rows.append([size, layers, shape_of(group[0]), tokens, *minutes, kl, f"{accuracy:.1%}", *scores])
    return markdown_table(headings, rows)


def rule_of_thumb(records: Iterable[Record]) -> list[str]:
    """What each step from one budget to the next gives, with the seeds that both have, on all layers.

    Of each size the shape counts that has the most budgets, of several such the one that ends nearest to the teacher.

    Args:
        records: of HomoDistil's students.

    Returns:
        `list[str]`: a Markdown line for each size that has two budgets or more.
    """
    budgets: dict[tuple[str, str], list[tuple[int, list[Record]]]] = {}
    for (size, layers, shape, num_tokens), group in _best(records, by_shape=True).items():
        if layers == ALL:
            budgets.setdefault((size, shape), []).append((num_tokens, group))
    lines = []
    for size in dict.fromkeys(size for size, _ in budgets):
        of_shapes = {shape: found for (other, shape), found in budgets.items() if other == size}
        shape = max(of_shapes, key=lambda shape: (len(of_shapes[shape]), -_mean_kl(of_shapes[shape][-1][1])))
        gains = [_gain(less, more) for less, more in itertools.pairwise(of_shapes[shape])]
        if gains:
            lines.append(
                f"- {size}, {shape}: {', then '.join(gains)} points of accuracy kept; not run with more tokens."
            )
    return lines


def _gain(less: tuple[int, Sequence[Record]], more: tuple[int, Sequence[Record]]) -> str:
    seeds = [{seed_of(record): kept(record) for record in group} for _, group in (less, more)]
    common = seeds[0].keys() & seeds[1].keys()
    gain = Spread.of(seeds[1][seed] - seeds[0][seed] for seed in common).mean if common else math.nan
    return f"{less[0] / 1e6:.2g} → {more[0] / 1e6:.2g} M tokens {100 * gain:+.1f}"


def _best(
    records: Iterable[Record], planned: Container[str] = (), *, by_shape: bool = False
) -> dict[tuple[str, str, str, int], list[Record]]:
    """Of cells of the same size, depth, shape (if it counts) and budget those of the best arm and axes, by KL.

    Those of a planned shape come before all others.
    """

    def rank(group: Sequence[Record]) -> tuple[bool, float]:
        return shape_of(group[0]) not in planned, _mean_kl(group)

    found: dict[tuple[str, str, str, int], list[Record]] = {}
    for group in over_seeds(records).values():
        size = size_of(group[0])
        if size is None:
            continue
        layers = str(group[0]["method_settings"].get("num_layers", ALL))
        key = (size, layers, shape_of(group[0]) if by_shape else "", group[0]["num_tokens"])
        if key not in found or rank(group) < rank(found[key]):
            found[key] = group
    return dict(sorted(found.items(), key=lambda item: (int(item[0][0][2:]), item[0][3], item[0][1] != ALL)))


def _mean_kl(group: Sequence[Record]) -> float:
    return Spread.of(record["evaluation"]["kl"] for record in group).mean


def _score_kept(group: Sequence[Record], name: str, teacher: float) -> str:
    scores = [task_means(record)[name] for record in group if name in task_means(record)]
    return f"{Spread.of(scores).mean / teacher:.1%}" if scores else "–"
