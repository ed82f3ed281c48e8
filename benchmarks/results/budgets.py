"""What a budget of tokens gives at each size: HomoDistil's students of all sweeps, time, and a rule of thumb."""

import itertools
from collections.abc import Container

import pandas as pd

from benchmarks.results.students import SIZES
from benchmarks.results.verdicts import REFERENCE, paired
from benchmarks.results.words import words
from homodistil_hf.experiments.sweep.statistics import Spread
from homodistil_hf.experiments.sweep.tables import markdown_table

RATES = (1_000, 10_000, 100_000)
"""Tokens a second of other machines, for which times are computed."""


def budget_lines(students: pd.DataFrame) -> list[str]:
    """The table and the rule of thumb, from the students of all sweeps."""
    defaults = students["sweep"].str.startswith("methods_") & (students["arm"] == REFERENCE)
    own = own_students(students)
    if own.empty:
        return []
    rates = [f"minutes at {rate:,} tokens/s" for rate in RATES]
    headings = ["encoder MACs", "layers", "shape", "tokens", "minutes, measured", *rates]
    rows = [_row(group) for group in _best(own, set(students[defaults]["shape"]), ["size", "layers", "num_tokens"])]
    table = markdown_table([*headings, "KL, nats", "accuracy kept", "glue kept"], rows)
    thumb = rule_of_thumb(own) or ["- One budget a size: no rule of thumb follows from that."]
    return [words("budgets"), *table, "", "Rule of thumb:", "", *thumb, ""]


def own_students(students: pd.DataFrame) -> pd.DataFrame:
    """HomoDistil's, with other heads or layers too; a run of several sweeps once, by its own record."""
    arms = (students["arm"] == REFERENCE) | students["arm"].str.endswith("_heads")
    is_own = (students["method"] == REFERENCE) & arms | (students["method"] == "shallow")
    own = students[is_own & (students["size"] != "")]
    return own.sort_values("is_taken_over", kind="stable").drop_duplicates("digest")


def rule_of_thumb(own: pd.DataFrame) -> list[str]:
    """What each step from one budget to the next gives, with the seeds that both have, on all layers.

    Of each size the shape counts that has the most budgets, of several such the one that ends nearest to the teacher.
    """
    best = _best(own[own["layers"] == "all"], (), ["size", "shape", "num_tokens"])
    by_shape: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for group in best:
        by_shape.setdefault(group["size"].iloc[0], {}).setdefault(group["shape"].iloc[0], []).append(group)
    lines = []
    for size, shapes in by_shape.items():
        shape, groups = max(shapes.items(), key=lambda item: (len(item[1]), -item[1][-1]["kl"].mean()))
        gains = ", then ".join(_gain(less, more) for less, more in itertools.pairwise(groups))
        if gains:
            lines.append(f"- {size}, {shape}: {gains} points of accuracy kept; not run with more tokens.")
    return lines


def _best(own: pd.DataFrame, planned: Container[str], within: list[str]) -> list[pd.DataFrame]:
    """Of students with `within` in common the nearest arm and axes; a planned shape comes before others."""
    groups = [group.sort_values("seed") for _, group in own.groupby("configuration", sort=False)]
    groups.sort(key=lambda group: (group["shape"].iloc[0] not in planned, group["kl"].mean()))
    best: dict[tuple[str, ...], pd.DataFrame] = {}
    for group in groups:
        best.setdefault(tuple(group[within].iloc[0]), group)
    return sorted(best.values(), key=_place)


def _place(group: pd.DataFrame) -> tuple[int, int, bool]:
    first = group.iloc[0]
    return SIZES.index(first["size"]), first["num_tokens"], first["layers"] != "all"


def _row(group: pd.DataFrame) -> list[str]:
    first = group.iloc[0]
    tokens, speed = first["num_tokens"], (group["num_tokens"] / group["training_seconds"]).median()
    minutes = [f"{tokens / rate / 60:.1f}" for rate in (speed, *RATES)]
    kept = [group[name].dropna().mean() for name in ("accuracy_kept", "glue_kept")]
    shares = ["–" if pd.isna(share) else f"{share:.1%}" for share in kept]
    student = [*first[["size", "layers", "shape"]], f"{tokens / 1e6:.2f} M"]
    return [*student, *minutes, str(Spread.of(group["kl"])), *shares]


def _gain(less: pd.DataFrame, more: pd.DataFrame) -> str:
    gain = 100 * pd.Series(paired(more, less, "accuracy_kept"), dtype=float).mean()
    budgets = [f"{group['num_tokens'].iloc[0] / 1e6:.2g}" for group in (less, more)]
    return f"{' → '.join(budgets)} M tokens {gain:+.1f}"
