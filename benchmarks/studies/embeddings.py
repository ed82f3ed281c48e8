"""Students of a real embedding model: the widths, layers and terms that keep most, by variant, steps and rate.

Rows are of benchmarks/embeddings.py at commit 7db6fe1. It trains each variant on the same sentences, and measures it
on STS-B's development pairs and on held-out sentences. Those of the library are trained by sentence-transformers.
"""

import math
import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

from ..spread import Spread

LIBRARY = "library"
ORDER = (
    *("width", "layers 0 1 5", "layers 0 1 2 5", "layers 0 5", "vectors alone", "layers 0 1 5, vectors alone"),
    *("vectors alone, by magnitude", "vectors alone, map not fitted"),
    *("vectors alone, map fitted at the start alone", "vectors alone, gradually", "own space"),
    *("library, layers 0 1 5", "library, layers 0 2 4", "library, random weights"),
    *("layers 0 1 5, relational 0.5", "vectors alone, relational 0.5", "vectors alone, relational 0.03"),
    "own space, relational 15",
)
"""All variants, as the tables have them; those with a relational term last, as it was removed from the package."""
STUDENTS = (*ORDER[:4], *(name for name in ORDER if name.startswith(LIBRARY)))
"""The table of students has these; the table of terms shows the worth of a term, a score or the map."""
REMOVED = tuple(name for name in ORDER if "relational" in name)
TERMS_STEPS, TERMS_MACS = 300, 0.25
_MEASURES = ("stsb", "cosine", "neighbours")
_CELL = ["macs", "variant", "steps"]


def tables(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Mark → table: students with their best rates; terms, map and rates one by one."""
    runs = pd.DataFrame(rows)
    runs = pd.concat([runs, 100 * runs["agreement"].apply(pd.Series)], axis=1)
    runs["stsb"], runs["teacher_stsb"] = 100 * runs["stsb"], 100 * runs["teacher_stsb"]
    runs["order"] = runs["variant"].map(ORDER.index)
    runs = runs.sort_values(["macs", "steps", "order", "rate"], ascending=[False, True, True, True], kind="stable")
    cells = runs.groupby([*_CELL, "rate"], sort=False).agg(lambda found: list(found)).reset_index()
    cells["likeness"] = cells["neighbours"].map(statistics.fmean)  # a space of its own has no cosine
    best = cells.loc[cells.groupby(_CELL, sort=False)["likeness"].idxmax()]
    is_term = (
        ~cells["variant"].isin((*STUDENTS[1:], *REMOVED, "layers 0 1 5, vectors alone"))
        & (cells["macs"] == TERMS_MACS)
        & (cells["steps"] == TERMS_STEPS)
    )
    is_student = best["variant"].isin(STUDENTS) & (best["steps"] > TERMS_STEPS)
    parts = {"students": best[is_student], "terms": cells[is_term]}
    shown = {mark: [_row(cell) for _, cell in part.iterrows()] for mark, part in parts.items()}
    alike = {"students": ("rate",), "terms": ("MACs", "parameters")}  # in all rows: the page says it once
    return {
        mark: markdown_table(
            [name for name in found[0] if name not in alike[mark]],
            [[value for name, value in row.items() if name not in alike[mark]] for row in found],
        )
        for mark, found in shown.items()
    }


def _row(cell: Any) -> dict[str, str]:
    known = [[value for value in cell[name] if not math.isnan(value)] for name in _MEASURES]
    scores = [f"{Spread.of(values):.1f}" if values else "–" for values in known]
    kept = statistics.fmean(cell["stsb"]) / statistics.fmean(cell["teacher_stsb"])
    macs, size = statistics.fmean(cell["kept_macs"]), statistics.fmean(cell["num_parameters"]) / 1e6
    found = {"MACs": f"{macs:.2f}", "student": cell["variant"], "rate": f"{cell['rate']:g}", "STS-B": scores[0]}
    found |= {"kept": f"{kept:.1%}", "cosine": scores[1], "neighbours": scores[2]}
    return found | {"parameters": f"{size:.1f} M"}


STUDY = Study(Path("docs/results/studies/embeddings.jsonl"), Path("docs/embeddings.md"), tables)
