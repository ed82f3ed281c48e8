"""The part of docs/results.md that comes from `benchmarks/fine_tunings.py`: how much one fine-tuning says."""

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from glue_table import TASK_NAMES
from verdicts import better_words, paired_threshold

from homodistil_hf.sweep.statistics import Spread, pooled_std
from homodistil_hf.sweep.tables import markdown_table

Scores = dict[int | None, list[float]]
"""Seed of a student's run → its scores, one for each seed of the fine-tunings."""


def fine_tuning_sections(folder: Path) -> list[str]:
    """The section, if the fine-tunings were begun."""
    file = folder / "fine_tunings.json"
    if not file.is_file():
        return []
    results = json.loads(file.read_text(encoding="utf-8"))
    machine = results["machine"]
    lines = [
        "## What one fine-tuning says",
        "",
        f"`python benchmarks/fine_tunings.py runs/sweeps/{results['sweep']} --arms {' '.join(results['arms'])} "
        f"--tasks {' '.join(results['tasks'])}`",
        "",
        f"Students of the sweep `{results['sweep']}` and their teacher, each fine-tuned with {len(results['seeds'])} "
        f"seeds (head, order of rows, dropout) on at most {results['max_train_samples']:,} rows. A student's score is "
        "the mean of its fine-tunings. *Between fine-tunings* is the standard deviation of one student's, pooled over "
        "the students of an arm; *between students* that of their means.",
        "",
    ]
    for task in results["tasks"]:
        arms = scores_by_arm(results, task)
        lines += [*spread_rows(TASK_NAMES[task], arms), "", *difference_rows(arms), ""]
    lines += [
        f"Machine: {machine['processor']}, {machine['num_threads']} thread(s) of {machine['num_cores']} cores.",
        "",
    ]
    return ["\n".join(lines)]


def scores_by_arm(results: Mapping[str, Any], task: str) -> dict[str, Scores]:
    arms: dict[str, Scores] = {}
    for model in results["models"]:
        arms.setdefault(model["arm"], {})[model["seed"]] = model["scores"][task]
    return arms


def spread_rows(task: str, arms: Mapping[str, Scores]) -> list[str]:
    rows = []
    for arm, students in arms.items():
        every = [score for scores in students.values() for score in scores]
        means = [statistics.fmean(scores) for scores in students.values()]
        within, between = pooled_std(students.values()), pooled_std([means])
        stds = ["–" if std is None else f"{std[0]:.3f}" for std in (within, between)]
        rows.append(
            [arm, str(len(means)), f"{Spread.of(means).mean:.3f}", f"{min(every):.3f} to {max(every):.3f}", *stds]
        )
    return markdown_table([task, "models", "mean", "single scores", "between fine-tunings", "between students"], rows)


def difference_rows(arms: Mapping[str, Scores]) -> list[str]:
    """Students of two arms, seed by seed of their runs; the difference counts beyond Student's t at 95 %."""
    rows = []
    for one, other in combinations(arms, 2):
        found = paired(arms[one], arms[other])
        if len(found) > 1:
            threshold = f"{paired_threshold(found):.3f}"
            verdict = better_words(found, f"`{one}`", f"`{other}`")
            rows.append([f"`{one}` − `{other}`", str(Spread.of(found)), threshold, verdict])
    headings = ["difference of means, seed by seed of the runs", "", "counts beyond (95 %)", ""]
    return markdown_table(headings, rows) if rows else []


def paired(one: Scores, other: Scores) -> Sequence[float]:
    return [statistics.fmean(one[seed]) - statistics.fmean(other[seed]) for seed in one if seed in other]
