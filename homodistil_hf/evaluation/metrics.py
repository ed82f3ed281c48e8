"""A task's official metric by its name, and the one score that models are compared by.

metric_modules.py has the metrics, `tasks/glue.py` names those of each task.
"""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..tasks.glue import BENCHMARK_TASKS, GLUE_TASKS, SQUAD_TASKS, TaskData, check_task
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
    check_task(task, BENCHMARK_TASKS)
    from .metric_modules import GlueMetric, SquadMetric, SquadV2Metric  # `evaluate` takes half a second to import

    if task in SQUAD_TASKS:
        return {"squad": SquadMetric, "squad_v2": SquadV2Metric}[task](keep_in_memory=True)
    return GlueMetric(task, keep_in_memory=True)


def task_score(task: str, results: Mapping[str, float]) -> float:
    """The mean of a task's main metrics, in [-1, 1] with 1 for a perfect model; SQuAD's percents become fractions."""
    names = BENCHMARK_TASKS[task].metrics
    return sum(results[name] for name in names) / len(names) / (100 if task in SQUAD_TASKS else 1)


def constant_score(data: TaskData) -> float:
    """Score of a model that has learned nothing: one answer for every dev row, as [`task_score`].

    The answer is the training rows' most frequent label, their mean for a similarity, none for a question of SQuAD.
    """
    metric, scores = load_metric(data.task), []
    for dev in data.dev.values():
        if data.task in GLUE_TASKS:
            labels, references = data.train["label"][:], dev["label"][:]
            constant = statistics.fmean(labels) if GLUE_TASKS[data.task].kind == VALUES else statistics.mode(labels)
            predictions = [constant] * len(dev)
        else:
            none = {"prediction_text": ""} | ({"no_answer_probability": 1.0} if data.task == "squad_v2" else {})
            references = [{"id": row["id"], "answers": row["answers"]} for row in dev]
            predictions = [{"id": row["id"], **none} for row in references]
        scores.append(task_score(data.task, metric.compute(predictions=predictions, references=references)))
    return statistics.fmean(scores)
