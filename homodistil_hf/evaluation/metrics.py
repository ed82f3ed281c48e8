"""The official metrics of GLUE and SQuAD, also as modules of `evaluate`, and the score that models are compared by.

`tasks/metrics.py` has the formulas, `tasks/glue.py` names those of each task.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Features, List, Value

from ..tasks.glue import BENCHMARK_TASKS, GLUE_TASKS, SQUAD_TASKS, TaskData, check_task
from ..tasks.kinds import VALUES
from ..tasks.metrics import (
    accuracy,
    best_threshold,
    class_f1,
    exact_match,
    matthews_correlation,
    normalize_answer,
    pearson,
    spearman,
    token_f1,
)

if TYPE_CHECKING:
    import evaluate

_GLUE_FORMULAS = {
    "accuracy": accuracy,
    "f1": class_f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearman,
}
_ANSWER = {"id": Value("string"), "prediction_text": Value("string")}
_ANSWERS = {"text": List(Value("string")), "answer_start": List(Value("int32"))}
Rows = Sequence[Mapping[str, Any]]


def load_metric(task: str) -> "evaluate.Metric":
    """Load the official metric of a task; nothing is downloaded. GLUE's values are in [-1, 1], SQuAD's in percent.

    Inputs and results are named as those of the Hub's `glue`, `squad` and `squad_v2`.

    Raises:
        ValueError: `task` is unknown.

    Example:
    ```python
    >>> load_metric("cola").compute(predictions=[1, 0, 1, 1], references=[1, 0, 0, 1])
    {'matthews_correlation': 0.57735...}
    >>> load_metric("squad").compute(
    ...     predictions=[{"id": "1", "prediction_text": "in 1976"}],
    ...     references=[{"id": "1", "answers": {"text": ["1976"], "answer_start": [97]}}],
    ... )
    {'exact_match': 0.0, 'f1': 66.66...}

    ```
    """
    check_task(task, BENCHMARK_TASKS)
    import evaluate  # takes half a second, and evaluations do without

    if task in SQUAD_TASKS:
        wanted: Any = {"id": Value("string"), "answers": _ANSWERS}
        given: Any = _ANSWER | ({} if task == "squad" else {"no_answer_probability": Value("float64")})
    else:
        given = wanted = Value("float64" if task == "stsb" else "int64")

    class OfficialMetric(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            features = Features({"predictions": given, "references": wanted})
            return evaluate.MetricInfo(f"The official metrics of {task}.", citation="", features=features)

        def _compute(self, predictions: Any, references: Any, **options: float) -> dict[str, float]:
            return official_scores(task, predictions, references, **options)

    return OfficialMetric(task, keep_in_memory=True)


def official_scores(task: str, predictions: Any, references: Any, **options: float) -> dict[str, float]:
    """Measure predictions by the official metrics of a task, with inputs and results as in [`load_metric`].

    An undefined score of GLUE is 0, as in scikit-learn: a correlation with a constant, and an F1 without any positive.

    Raises:
        ValueError: no predictions, or some that have no score.
    """
    if len(predictions) == 0:
        raise ValueError(f"predictions of {task} are empty; expected at least one")
    if task in SQUAD_TASKS:
        return (_first_version if task == "squad" else _second_version)(predictions, references, **options)
    given, wanted = np.asarray(predictions), np.asarray(references)
    for name, values in (("predictions", given), ("references", wanted)):
        if not np.isfinite(values).all():
            bad = values[~np.isfinite(values)][0]
            raise ValueError(f"{name} of {task} hold {bad}; expected finite numbers: has it diverged?")
    return {name: _GLUE_FORMULAS[name](given, wanted) for name in GLUE_TASKS[task].metrics}


def _first_version(predictions: Rows, references: Rows) -> dict[str, float]:
    """SQuAD v1.1: `exact_match` and `f1`."""
    rows = _paired(predictions, references)
    if without := [reference["id"] for _, reference in rows if not reference["answers"]["text"]]:
        raise ValueError(f"references: question id={without[0]!r} has no answer; use the metric squad_v2")
    pairs = [(row["prediction_text"], reference["answers"]["text"]) for row, reference in rows]
    return {
        "exact_match": _percent([exact_match(text, golds) for text, golds in pairs]),
        "f1": _percent([token_f1(text, golds, both_empty=0.0) for text, golds in pairs]),
    }


def _second_version(predictions: Rows, references: Rows, no_answer_threshold: float = 1.0) -> dict[str, float]:
    """SQuAD v2.0: `exact` and `f1`; `HasAns_…` and `NoAns_…`, of questions with and without an answer.

    Above `no_answer_threshold` an answer counts as none. `best_exact` and `best_f1` are the scores at the best
    thresholds, `…_thresh` these thresholds.
    """
    pairs = _paired(predictions, references)
    texts = [row["prediction_text"] for row, _ in pairs]
    probabilities = np.array([row["no_answer_probability"] for row, _ in pairs])
    outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if len(outside):
        raise ValueError(f"no_answer_probability={outside[0]} is not in [0, 1]; of a score s, give 1 / (1 + exp(-s))")
    has_answer = np.array([bool(reference["answers"]["text"]) for _, reference in pairs])
    # Right answers that are not empty once normalised; else the empty one.
    golds = [[text for text in row["answers"]["text"] if normalize_answer(text)] or [""] for _, row in pairs]
    rows = list(zip(texts, golds, strict=True))
    formulas: dict[str, Any] = {"exact": exact_match, "f1": token_f1}
    scores = {name: np.array([formula(*row) for row in rows]) for name, formula in formulas.items()}
    counted = {
        name: np.where(probabilities > no_answer_threshold, ~has_answer, values) for name, values in scores.items()
    }
    results: dict[str, float] = {}
    for prefix, chosen in (("", np.ones_like(has_answer)), ("HasAns_", has_answer), ("NoAns_", ~has_answer)):
        if chosen.any():
            results |= {f"{prefix}{name}": _percent(values[chosen]) for name, values in counted.items()}
            results[f"{prefix}total"] = int(chosen.sum())
    is_answered = np.array([bool(text) for text in texts])
    for name, values in scores.items():
        best, threshold = best_threshold(values, probabilities, has_answer=has_answer, is_answered=is_answered)
        results |= {f"best_{name}": 100 * best, f"best_{name}_thresh": threshold}
    return results


def _percent(scores: Sequence[float] | np.ndarray) -> float:
    return float(100 * np.sum(scores) / len(scores))


def _paired(predictions: Rows, references: Rows) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each reference's prediction, by id."""
    by_id = {row["id"]: row for row in predictions}
    if missing := [row["id"] for row in references if row["id"] not in by_id]:
        raise ValueError(f"predictions lack id={missing[0]!r} of the references; predict an empty text for no answer")
    return [(by_id[reference["id"]], reference) for reference in references]


def task_score(task: str, results: Mapping[str, float]) -> float:
    """The mean of a task's main metrics, in [-1, 1] with 1 for a perfect model; SQuAD's percents become fractions."""
    names = BENCHMARK_TASKS[task].metrics
    return sum(results[name] for name in names) / len(names) / (100 if task in SQUAD_TASKS else 1)


def constant_score(data: TaskData) -> float:
    """Score of a model that has learned nothing: one answer for every dev row, as [`task_score`].

    The answer is the training rows' most frequent label, their mean for a similarity, none for a question of SQuAD.
    """
    scores = []
    for dev in data.dev.values():
        if data.task in GLUE_TASKS:
            labels, references = data.train["label"][:], dev["label"][:]
            constant = statistics.fmean(labels) if GLUE_TASKS[data.task].kind == VALUES else statistics.mode(labels)
            predictions = [constant] * len(dev)
        else:
            references = dev.select_columns(["id", "answers"]).to_list()
            predictions = [
                {"id": row["id"], "prediction_text": "", "no_answer_probability": 1.0} for row in references
            ]
        scores.append(task_score(data.task, official_scores(data.task, predictions, references)))
    return statistics.fmean(scores)
