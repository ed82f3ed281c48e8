"""Students of other architectures: held-out KL, pruned at once and gradually.

Rows are of benchmarks/families.py at commit 7db6fe1, which trains the teachers, and of the sweep beside it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table


def students_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a cell of the sweep: held-out KL at the first evaluation and at the end."""
    steps = sorted({int(step) for row in rows for step in row["kl"]})
    steps = [steps[0], steps[-1]]
    cells = []
    for row in rows:
        architecture, _, way = row["cell"].partition(",")[0].partition("_")
        curve = (f"{row['kl'][str(step)]:.3f}" for step in steps)
        words = " → ".join(f"{share:.1%}" for share in row["accuracy"])
        cells.append([f"`{architecture}`", "gradually" if way else "at once", *curve, words])
    header = ["architecture", "pruned", *(f"KL, step {step}" for step in steps), "right words"]
    return markdown_table(header, cells)


STUDY = Study(
    Path("docs/results/architectures.json"),
    Path("docs/architectures.md"),
    lambda record: {"runs": students_table(record["rows"])},
)
