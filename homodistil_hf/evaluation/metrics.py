"""A task's official metric by its name, and the one score that models are compared by.

metric_modules.py has the metrics, `tasks/glue.py` names those of each task.
"""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from datasets import Dataset

from ..tasks.glue import BENCHMARK_TASKS, GLUE_TASKS, SQUAD_TASKS, TaskData
from ..tasks.kinds import VALUES

if TYPE_CHECKING:
    import evaluate


def load_metric(task: str) -> "evaluate.Metric":
    """Load the official metric of a task; nothing is downloaded. GLUE's values are in [-1, 1], SQuAD's in percent.

    Raises:
        ValueError: `task` is unknown.

    Example:
    ```python
    >>> load_metric("cola").compute(predictions=[1, 0, 1, 1], references=[1, 0, 0, 1])
    {'matthews_correlation': 0.57735...}

    ```
    """
    _check_task(task)
    from .metric_modules import GlueMetric, SquadMetric, SquadV2Metric  # `evaluate` takes half a second to import

    if task in SQUAD_TASKS:
        return {"squad": SquadMetric, "squad_v2": SquadV2Metric}[task](keep_in_memory=True)
    return GlueMetric(task, keep_in_memory=True)


def main_metrics(task: str) -> tuple[str, ...]:
    """Names of the metrics that a task's score is the mean of: one or two for GLUE, F1 for SQuAD."""
    _check_task(task)
    return BENCHMARK_TASKS[task].metrics


def task_score(task: str, results: Mapping[str, float]) -> float:
    """The mean of a task's main metrics, in [-1, 1] with 1 for a perfect model; SQuAD's percents become fractions."""
    names = main_metrics(task)
    return sum(results[name] for name in names) / len(names) / (100 if task in SQUAD_TASKS else 1)


def constant_score(data: TaskData) -> float:
    """Score of a model that has learned nothing: one answer for every dev row, as [`task_score`].

    The answer is the training rows' most frequent label, their mean for a similarity, none for a question of SQuAD.
    """
    return statistics.fmean(task_score(data.task, _constant_metrics(data, dev)) for dev in data.dev.values())


def _constant_metrics(data: TaskData, dev: Dataset) -> dict[str, float]:
    metric = load_metric(data.task)
    if data.task in GLUE_TASKS:
        labels = data.train["label"][:]
        constant = statistics.fmean(labels) if GLUE_TASKS[data.task].kind == VALUES else statistics.mode(labels)
        return metric.compute(predictions=[constant] * len(dev), references=dev["label"][:])
    none = {"prediction_text": ""} | ({"no_answer_probability": 1.0} if data.task == "squad_v2" else {})
    references = [{"id": row["id"], "answers": row["answers"]} for row in dev]
    return metric.compute(predictions=[{"id": row["id"], **none} for row in references], references=references)


def _check_task(task: str) -> None:
    if task not in BENCHMARK_TASKS:
        raise ValueError(f"task={task!r} is unknown; expected one of {', '.join(BENCHMARK_TASKS)}")
