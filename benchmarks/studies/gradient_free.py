"""Pruning without labels or gradients: time and memory, quality beside baselines.

The baseline with labels follows the formula of the mask search of Kwon et al. 2022: a filter's score is the sum over
labelled samples of (∂loss/∂mask)², at masks of one. Time and memory are of benchmarks/studies/gradient_free.py
at commit f5db6bb, the rows on quality, after hours of fine-tuning, of benchmarks/gradient_free.py at commit 7db6fe1.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

from ..spread import Spread

RESULTS, PAGE = Path("docs/results"), Path("docs/gradient_free.md")
FISHER, R2D2 = "Fisher, with labels", "R2D2 + rescaling"
VARIANTS = ("random", "magnitude", "D2", "R2", "R2D2", R2D2, "R2D2, norms + rescaling", f"{R2D2}, other text")
VARIANTS += (FISHER, f"{FISHER} + rescaling")
VARIANTS += tuple(f"{variant}, then distilled" for variant in ("random", R2D2, f"{FISHER} + rescaling"))
NUM_SEEDS = 10
"""Of the text's rows, where a spread is shown."""


def quality_table(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Scores × 100 of each variant over the seeds of its samples, and the mean share of the teachers' it keeps."""
    table = pd.DataFrame(rows.values()).fillna({"variant": "fine-tuned"})
    teachers = table[table["variant"] == "fine-tuned"].set_index("task")["score"]
    cells = []
    for macs, variant in [(1.0, "fine-tuned"), *itertools.product((0.7, 0.6), VARIANTS)]:
        found = table[(table["macs"] == macs) & (table["variant"] == variant)].groupby("task")["score"]
        if len(found):
            kept = f"{fmean(found.mean() / teachers[found.mean().index]):.1%}" if len(found) == len(teachers) else "–"
            scores = dict(iter(found))
            spreads = (f"{Spread.of(100 * scores[task]):.1f}" if task in scores else "–" for task in teachers.index)
            shown = [spread.removesuffix(f" ({NUM_SEEDS})") for spread in spreads]
            cells.append([f"{macs:.0%}", variant, *shown, kept])
    return markdown_table(["MACs", "", *teachers.index, "kept"], cells)


def speed_table(results: Mapping[str, Any]) -> list[str]:
    """Seconds and memory of each variant."""
    cells = [
        [variant, f"{found['time_s']:.0f} s", f"{found['peak_above_model_mb'] / 1000:.1f} GB"]
        for variant, found in results["variants"].items()
    ]
    return markdown_table(["", "time", "memory above the model"], cells)


SPEED = Study(RESULTS / "gradient_free_speed.json", PAGE, lambda record: {"speed": speed_table(record)})
QUALITY = Study(
    RESULTS / "gradient_free_quality.json", PAGE, lambda record: {"quality": quality_table(record["rows"])}
)
