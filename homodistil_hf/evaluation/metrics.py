"""A task's metric by its name, and the one score by which models are compared on it; no formulas."""

from collections.abc import Mapping

import evaluate

from .glue.data import GLUE_TASKS
from .glue.metrics import GlueMetric, missing_packages
from .squad.metrics import SquadMetric, SquadV2Metric

SQUAD_METRICS: dict[str, type[evaluate.Metric]] = {"squad": SquadMetric, "squad_v2": SquadV2Metric}
METRIC_TASKS = (*GLUE_TASKS, *SQUAD_METRICS)
"""Tasks that have a metric."""


def load_metric(task: str) -> evaluate.Metric:
    """Load the official metric of a task; nothing is downloaded. GLUE's values are in [-1, 1], SQuAD's in percent.

    Raises:
        ValueError: `task` is unknown, or the `[evaluation]` extra is missing where it is needed.

    Example:
    ```python
    >>> load_metric("cola").compute(predictions=[1, 0, 1, 1], references=[1, 0, 0, 1])
    {'matthews_correlation': 0.57735...}

    ```
    """
    _check_task(task)
    if task in SQUAD_METRICS:
        return SQUAD_METRICS[task](keep_in_memory=True)
    if missing := missing_packages():
        raise ValueError(
            f"task={task!r} needs {' and '.join(missing)}; install with pip install 'homodistil-hf[evaluation]'"
        )
    return GlueMetric(task, keep_in_memory=True)


def main_metrics(task: str) -> tuple[str, ...]:
    """Names of the metrics whose mean is a task's score: both where GLUE has two, F1 for SQuAD."""
    _check_task(task)
    return GLUE_TASKS[task].metrics if task in GLUE_TASKS else ("f1",)


def task_score(task: str, results: Mapping[str, float]) -> float:
    """The mean of a task's main metrics, in [-1, 1] with 1 for a perfect model; SQuAD's percents become fractions."""
    names = main_metrics(task)
    return sum(results[name] for name in names) / len(names) / (100 if task in SQUAD_METRICS else 1)


def _check_task(task: str) -> None:
    if task not in METRIC_TASKS:
        raise ValueError(f"task={task!r} is unknown; expected one of {', '.join(METRIC_TASKS)}")
