"""What a budget of tokens gives at each size: HomoDistil's students of all sweeps, and the time."""

from collections.abc import Container

import pandas as pd

from benchmarks.results.students import SIZES
from benchmarks.results.verdicts import REFERENCE
from benchmarks.results.words import words
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.tables import markdown_table

RATES = (1_000, 10_000, 100_000)  # tokens a second of other machines


def budget_lines(students: pd.DataFrame) -> list[str]:
    """The table, from the students of all sweeps."""
    defaults = students["sweep"].str.startswith("methods_") & (students["arm"] == REFERENCE)
    own = own_students(students)
    if own.empty:
        return []
    rates = [f"minutes at {rate:,} tokens/s" for rate in RATES]
    headings = ["encoder MACs", "layers", "shape", "tokens", "minutes, measured", *rates]
    rows = [_row(group) for group in _best(own, set(students[defaults]["shape"]))]
    table = markdown_table([*headings, "KL, nats", "accuracy kept", "glue kept"], rows)
    return [words("budgets"), *table, ""]


def own_students(students: pd.DataFrame) -> pd.DataFrame:
    """HomoDistil's, with other heads or layers too; a run of several sweeps once, by its own record."""
    arms = (students["arm"] == REFERENCE) | students["arm"].str.endswith("_heads")
    is_own = (students["method"] == REFERENCE) & arms | (students["method"] == "shallow")
    own = students[is_own & (students["size"] != "")]
    return own.sort_values("is_taken_over", kind="stable").drop_duplicates("digest")


def _best(own: pd.DataFrame, planned: Container[str]) -> list[pd.DataFrame]:
    """Of a size, depth and budget the nearest arm and axes; a planned shape comes before others."""
    groups = [group.sort_values("seed") for _, group in own.groupby("configuration", sort=False)]
    groups.sort(key=lambda group: (group["shape"].iloc[0] not in planned, group["kl"].mean()))
    best: dict[tuple[int, int, bool, str], pd.DataFrame] = {}
    for group in groups:
        first = group.iloc[0]
        place = SIZES.index(first["size"]), first["num_tokens"], first["layers"] != "all", first["layers"]
        best.setdefault(place, group)
    return [best[place] for place in sorted(best)]


def _row(group: pd.DataFrame) -> list[str]:
    first = group.iloc[0]
    tokens, speed = first["num_tokens"], (group["num_tokens"] / group["training_seconds"]).median()
    minutes = [f"{tokens / rate / 60:.1f}" for rate in (speed, *RATES)]
    kept = [group[name].dropna().mean() for name in ("accuracy_kept", "glue_kept")]
    shares = ["–" if pd.isna(share) else f"{share:.1%}" for share in kept]
    student = [*first[["size", "layers", "shape"]], f"{tokens / 1e6:.2f} M"]
    return [*student, *minutes, str(Spread.of(group["kl"])), *shares]
