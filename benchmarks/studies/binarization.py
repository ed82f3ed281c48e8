"""One bit a weight: the worth of the method's parts, of activations' bits and of narrow students; the speed of bits.

The speed is of benchmarks/studies/binarization.py at commit 4419268. The row of one set is of the same commit, by the
commands on the page. The other rows and the picture are of benchmarks/binarization.py at commit 7db6fe1.
"""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

from ..spread import Spread

PICTURE = Path("docs/results/studies/binarization.png")
FLOAT = "float"
RUNGS = ("one set, one step", "+ two sets", "+ elastic", "+ multi-distillation")
Rows = Mapping[str, Mapping[str, Any]]


def ladder_table(rows: Rows) -> list[str]:
    """Scores × 100 of each rung over its seeds, and the share that it keeps of the mean of its own float models."""
    table = pd.DataFrame(rows.values())
    tasks = list(dict.fromkeys(table["task"]))
    floats = {task: table[table["task"] == task][FLOAT].iloc[-1] for task in tasks}
    cells = [[FLOAT, *(f"{100 * floats[task]:.1f}" for task in tasks), "100.0%"]]
    for name in RUNGS:
        found = {task: table[(table["task"] == task) & (table["rung"] == name)]["score"].tolist() for task in tasks}
        scores = [f"{Spread.of([100 * score for score in found[task]]):.1f}" if found[task] else "–" for task in tasks]
        own = table[table["rung"] == name].groupby("task")[FLOAT].first()
        kept = fmean(map(fmean, found.values())) / own.mean() if all(found.values()) else None
        cells.append([name, *scores, "–" if kept is None else f"{kept:.1%}"])
    return markdown_table(["", *tasks, "mean kept"], cells)


def bits_table(rows: Rows) -> list[str]:
    """Scores × 100 by the bits of activations and the steps, most bits first."""
    in_order = sorted(rows.values(), key=lambda row: (row["task"], -row["bits"], row["max_train_steps"]))
    cells = [
        [row["task"], str(row["bits"]), f"{row['max_train_steps']:,}"]
        + [f"{100 * row[name]:.1f}" for name in ("score", FLOAT)]
        for row in in_order
    ]
    return markdown_table(["task", "bits of activations", "steps", "score", FLOAT], cells)


def narrow_rows(rows: Rows) -> pd.DataFrame:
    """A row a task, model and form."""
    found = []
    for key, row in rows.items():
        task, name = key.split(", ")
        forms = {FLOAT: (row[FLOAT], row["float_bytes"]), "bits": (row["score"], row["size_bytes"])}
        for form, (score, size) in forms.items():
            facts = {"task": task, "model": f"{name}, {form}", "score": score, "size_mb": size / 1e6}
            found.append(facts | {"latency_ms": row["latency"][form]["median_ms"]})
    return pd.DataFrame(found)


def narrow_table(rows: Rows) -> list[str]:
    """A row a model: each task's score; means of bytes and latency, as models differ in their heads alone."""
    cells, table = [], narrow_rows(rows)
    for name, found in table.groupby("model", sort=False):
        scores = [f"{100 * score:.1f}" for score in found["score"]]
        cells.append([str(name), *scores, f"{found['size_mb'].mean():.1f}", f"{found['latency_ms'].mean():.1f}"])
    lines = markdown_table(["model", *table["task"].unique(), "MB", "ms a sequence of 128"], cells)
    return [f"![Scores against size and latency](results/studies/{PICTURE.name})", "", *lines]


def kernel_table(found: Mapping[str, Any]) -> list[str]:
    """Median milliseconds, and the ratio of the medians, with quartiles of the rounds' ratios."""
    cells = []
    for name, case in found["cases"].items():
        times = [f"{case['latency'][form]['median_ms']:.2f}" for form in ("float32", "bits")]
        ratio = "{ratio:.2f} ({lower_quartile:.2f} – {upper_quartile:.2f})".format(**case["speed_up"]["bits"])
        cells.append([name, *times, ratio])
    return markdown_table(["", "float32, ms", "bits, ms", "× as fast"], cells)


TABLES = {"ladder": ladder_table, "bits": bits_table, "narrow": narrow_table, "kernel": kernel_table}
STUDY = Study(
    Path("docs/results/binarization.json"),
    Path("docs/binarization.md"),
    lambda record: {part: table(record[part]) for part, table in TABLES.items() if part in record},
)
