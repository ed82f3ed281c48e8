"""The part of docs/results.md that comes from `benchmarks/fine_tunings.py`: how much one fine-tuning says."""

import json
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from benchmarks.machine_words import machine_words
from benchmarks.results.glue import TASK_NAMES
from benchmarks.results.verdicts import better_words, paired_threshold
from homodistil_hf.evaluation.glue.data import PART_SUFFIX
from homodistil_hf.experiments.sweep.cells import TEACHER
from homodistil_hf.experiments.sweep.statistics import Spread, pooled_std
from homodistil_hf.experiments.sweep.tables import markdown_table

Scores = dict[int | None, list[float]]
"""Seed of a student's run → its scores, one for each seed of the fine-tunings."""


SPREAD_TEXT = (
    "A student's score is the mean of its fine-tunings, *kept* its arm's share of the teacher's. *Between "
    "fine-tunings* is the standard deviation of one student's, pooled over the students of an arm; *between students* "
    "that of their means."
)

SINGLE_TEXT = (
    "Accuracy (QNLI, MNLI), the mean of accuracy and F1 (QQP); *kept* is the share of the teacher's mean. Of a part "
    "of 1,000 dev rows, as those of QQP and MNLI, an accuracy has a standard error of about 0.015; nothing is known "
    "of other seeds."
)


def fine_tuning_sections(folder: Path) -> list[str]:
    """One section for each file of fine-tunings that is there, the one with several seeds first."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("fine_tunings*.json"))]
    return [section(results) for results in sorted(found, key=lambda results: -len(results["seeds"]))]


def section(results: Mapping[str, Any]) -> str:
    num_seeds = len(results["seeds"])
    is_single = num_seeds == 1 and len({model["arm"] for model in results["models"]}) == len(results["models"])
    tasks = list(results["models"][0]["scores"])
    command = (
        f"python -m benchmarks.results.fine_tunings runs/sweeps/{results['sweep']} --arms {' '.join(results['arms'])}"
    )
    if results.get("run_seeds"):
        command += f" --run_seeds {' '.join(map(str, results['run_seeds']))}"
    command += f" --tasks {' '.join(results['tasks'])} --seeds {' '.join(map(str, results['seeds']))}"
    lines = [
        f"## {'What one fine-tuning says' if num_seeds > 1 else 'Other tasks'}",
        "",
        f"`{command}`",
        "",
        f"Students of the sweep `{results['sweep']}` and their teacher, each fine-tuned with "
        f"{f'{num_seeds} seeds' if num_seeds > 1 else 'one seed'} (head, order of rows, dropout) on at most "
        f"{results['max_train_samples']:,} rows. {SINGLE_TEXT if is_single else SPREAD_TEXT}",
        "",
    ]
    found = tables(results, tasks)
    lines += single_rows(found) if is_single else spread_lines(found)
    lines += [
        f"Machine: {machine_words(results['machine'])}.",
        "",
    ]
    return "\n".join(lines)


def tables(results: Mapping[str, Any], tasks: Sequence[str]) -> dict[str, dict[str, Scores]]:
    """Name → arm → scores: each task, and the mean over all of them, fine-tuning by fine-tuning."""
    found = {task_name(task): scores_by_arm(results, task) for task in tasks}
    if len(found) > 1:
        arms: dict[str, Scores] = {}
        for model in results["models"]:
            of_seeds = zip(*model["scores"].values(), strict=True)
            arms.setdefault(model["arm"], {})[model["seed"]] = [statistics.fmean(scores) for scores in of_seeds]
        found[f"mean of {len(tasks)}"] = arms
    return found


def task_name(task: str) -> str:
    name = task.removesuffix(PART_SUFFIX)
    return TASK_NAMES.get(name, name.upper()) + (", a part" if task.endswith(PART_SUFFIX) else "")


def scores_by_arm(results: Mapping[str, Any], task: str) -> dict[str, Scores]:
    arms: dict[str, Scores] = {}
    for model in results["models"]:
        arms.setdefault(model["arm"], {})[model["seed"]] = model["scores"][task]
    return arms


def single_rows(found: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    """One score a model and task, then the mean of the tasks."""
    arms = list(next(iter(found.values())))
    scores = {arm: [statistics.fmean(next(iter(tasks[arm].values()))) for tasks in found.values()] for arm in arms}
    teacher = scores.get(TEACHER)
    rows = [
        [arm, *(f"{score:.3f}" for score in of_arm), f"{of_arm[-1] / teacher[-1]:.1%}" if teacher else "–"]
        for arm, of_arm in scores.items()
    ]
    return [*markdown_table(["", *found, "kept"], rows), ""]


def spread_lines(found: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    """A table of scores for each task, and one of differences where arms have several students."""
    lines = []
    for name, arms in found.items():
        lines += [*spread_rows(name, arms), ""]
        differences = difference_rows(arms)
        lines += [*differences, ""] if differences else []
    return lines


def spread_rows(task: str, arms: Mapping[str, Scores]) -> list[str]:
    teacher = [statistics.fmean(scores) for scores in arms.get(TEACHER, {}).values()]
    rows = []
    for arm, students in arms.items():
        every = [score for scores in students.values() for score in scores]
        means = [statistics.fmean(scores) for scores in students.values()]
        within, between = pooled_std(students.values()), pooled_std([means])
        stds = ["–" if std is None else f"{std[0]:.3f}" for std in (within, between)]
        mean = Spread.of(means).mean
        kept = f"{mean / teacher[0]:.1%}" if teacher else "–"
        rows.append([arm, str(len(means)), f"{mean:.3f}", kept, f"{min(every):.3f} to {max(every):.3f}", *stds])
    headings = [task, "models", "mean", "kept", "single scores", "between fine-tunings", "between students"]
    return markdown_table(headings, rows)


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
