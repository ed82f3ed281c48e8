"""Scores of the tasks one by one, what a student keeps of its teacher's mean, and differences of means."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.results.verdicts import Noises, by_arm, noise_of, with_common_seeds
from homodistil_hf.experiments.sweep.cells import TEACHER
from homodistil_hf.experiments.sweep.statistics import Record, Spread, differences
from homodistil_hf.experiments.sweep.tables import markdown_table, task_means

TASK_NAMES = {"cola": "CoLA", "sst2": "SST-2", "mrpc": "MRPC", "rte": "RTE", "stsb": "STS-B"}


def glue_rows(records: Sequence[Record], constant: Mapping[str, float] | None = None) -> list[str]:
    """Lay out GLUE scores, each the mean over pre-training seeds.

    Args:
        records: of teacher and students; those without GLUE are left out.
        constant: task → score of a model that gives every row the same label, for a last row.

    Returns:
        `list[str]`: Markdown lines; none where nothing was evaluated.
    """
    graded = {arm: [results for results in map(_results, group) if results] for arm, group in by_arm(records).items()}
    graded = {arm: group for arm, group in graded.items() if group}
    if not graded:
        return []
    tasks = [
        task for task in TASK_NAMES if all(task in results["tasks"] for group in graded.values() for results in group)
    ]
    teacher = Spread.of(results["mean"] for results in graded[TEACHER]).mean if TEACHER in graded else None
    rows = []
    for arm, group in graded.items():
        scores = [str(Spread.of(results["tasks"][task]["mean"] for results in group)) for task in tasks]
        means = Spread.of(results["mean"] for results in group)
        rows.append([arm, *scores, str(means), "–" if teacher is None else f"{means.mean / teacher:.1%}"])
    if constant and all(task in constant for task in tasks):
        mean = fmean(constant[task] for task in tasks)
        share = "–" if teacher is None else f"{mean / teacher:.1%}"
        rows.append(["the same for every row", *(f"{constant[task]:.3f}" for task in tasks), f"{mean:.3f}", share])
    text = (
        "Dev sets after fine-tuning with one seed and the package's defaults (learning rate 1e-4, 3 epochs, batches "
        "of 32), SST-2 on 10,000 of its rows: Matthews correlation (CoLA), "
        "accuracy (SST-2, RTE), the mean of accuracy and F1 (MRPC), of Pearson and Spearman "
        "(STS-B). *Kept* is the share of the teacher's mean, of one fine-tuning with these defaults too; "
        "the last row is what the most frequent label keeps without having learned anything."
    )
    return [text, "", *markdown_table(["", *(TASK_NAMES[task] for task in tasks), "mean", "kept"], rows)]


def glue_differences(records: Sequence[Record], others: Sequence[Record]) -> list[float]:
    """By how much an arm's mean over the tasks is above another's, for each seed that both were fine-tuned of."""
    scores = [[task_means(record).get("glue") for record in group] for group in with_common_seeds(records, others)]
    return [own - other for own, other in zip(*scores, strict=True) if own is not None and other is not None]


def accuracy_differences(records: Sequence[Record], others: Sequence[Record]) -> list[float]:
    """By how much an arm's masked-LM accuracy is above another's, seed by seed."""
    return differences(records, others, "mlm_accuracy")


def noises_of(records: Sequence[Record]) -> Noises:
    """Measure the noise of each figure.

    Args:
        records: of the methods at a quarter, several seeds each.

    Returns:
        [`verdicts.Noises`].
    """
    return Noises(noise_of(records), noise_of(records, accuracy_differences), noise_of(records, glue_differences))


def teachers_mean(records: Sequence[Record]) -> float | None:
    """The teacher's mean over the tasks.

    Args:
        records: of a sweep.

    Returns:
        `float`, or None where it was not fine-tuned.
    """
    return next((task_means(record).get("glue") for record in records if record["method"] == TEACHER), None)


def tasks_kept(records: Iterable[Record], teacher: float | None) -> list[float]:
    """Students' means over the tasks as shares of their teacher's.

    Args:
        records: of students; those that were not fine-tuned are left out.
        teacher: see [`teachers_mean`].

    Returns:
        `list[float]`: none without a teacher's.
    """
    scores = [means["glue"] for means in map(task_means, records) if "glue" in means]
    return [score / teacher for score in scores] if teacher else []


def _results(record: Record) -> dict[str, Any] | None:
    found: dict[str, Any] | None = record.get("evaluate", {}).get("glue", {}).get("results")
    return found if found and "tasks" in found else None
