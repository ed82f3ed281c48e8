"""The official metrics of GLUE and SQuAD, as modules of `evaluate` that need no download.

`tasks/metrics.py` has the formulas. Inputs and results are named as those of the Hub's `glue`, `squad` and `squad_v2`.
`metrics.py` imports this file when a metric is asked for.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value

from ..tasks.glue import GLUE_TASKS
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

_GLUE_FORMULAS = {
    "accuracy": accuracy,
    "f1": class_f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearman,
}
Rows = Sequence[Mapping[str, Any]]
_REFERENCES = {"id": Value("string"), "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))}}
_CITATION = "Rajpurkar et al., SQuAD, EMNLP 2016, arXiv 1606.05250; v2.0: ACL 2018, arXiv 1806.03822"


class GlueMetric(evaluate.Metric):
    """The official metrics of one GLUE task, all in [-1, 1].

    An undefined score is 0, as in scikit-learn. A correlation with constant predictions or references is undefined,
    and an F1 without any positive.

    Args:
        config_name (`str`): the task, one of `GLUE_TASKS`.
        **kwargs: those of `evaluate.Metric`, such as `keep_in_memory`.

    Example:
    ```python
    >>> metric = GlueMetric("mrpc", keep_in_memory=True)
    >>> metric.compute(predictions=[1, 1, 0, 1], references=[1, 0, 0, 1])
    {'accuracy': 0.75, 'f1': 0.8}

    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in GLUE_TASKS:
            raise ValueError(f"config_name={self.config_name!r} is no GLUE task; expected {', '.join(GLUE_TASKS)}")
        metrics = ", ".join(GLUE_TASKS[self.config_name].metrics)
        value = Value("float64" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description=f"Metrics of the GLUE task {self.config_name}: {metrics}.",
            citation="Wang et al., GLUE, ICLR 2019, arXiv 1804.07461",
            inputs_description="\npredictions, references: class indices, or similarities from 0 to 5 for stsb.\n",
            features=Features({"predictions": value, "references": value}),
        )

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        given, wanted = np.asarray(predictions), np.asarray(references)
        if len(given) == 0:
            raise ValueError(f"predictions of {self.config_name} are empty; expected at least one")
        for name, values in (("predictions", given), ("references", wanted)):
            if not np.isfinite(values).all():
                bad = values[~np.isfinite(values)][0]
                raise ValueError(f"{name} of {self.config_name} hold {bad}; expected finite numbers: has it diverged?")
        return {name: _GLUE_FORMULAS[name](given, wanted) for name in GLUE_TASKS[self.config_name].metrics}


class SquadMetric(evaluate.Metric):
    """SQuAD v1.1: `exact_match` and `f1`, in percent.

    Args:
        **kwargs: those of `evaluate.Metric`, such as `keep_in_memory`.

    Example:
    ```python
    >>> metric = SquadMetric(keep_in_memory=True)
    >>> metric.compute(
    ...     predictions=[{"id": "1", "prediction_text": "in 1976"}],
    ...     references=[{"id": "1", "answers": {"text": ["1976"], "answer_start": [97]}}],
    ... )
    {'exact_match': 0.0, 'f1': 66.66...}

    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        predictions = {"id": Value("string"), "prediction_text": Value("string")}
        return evaluate.MetricInfo(
            description="Exact match and F1 of SQuAD v1.1.",
            citation=_CITATION,
            inputs_description="\npredictions: id, prediction_text; references: id, answers (text, answer_start).\n",
            features=Features({"predictions": predictions, "references": _REFERENCES}),
        )

    def _compute(self, predictions: Rows, references: Rows) -> dict[str, float]:
        rows = _paired(predictions, references)
        if without := [reference["id"] for _, reference in rows if not reference["answers"]["text"]]:
            raise ValueError(f"references: question id={without[0]!r} has no answer; use the metric squad_v2")
        pairs = [(row["prediction_text"], reference["answers"]["text"]) for row, reference in rows]
        return {
            "exact_match": _percent([exact_match(text, golds) for text, golds in pairs]),
            "f1": _percent([token_f1(text, golds, both_empty=0.0) for text, golds in pairs]),
        }


class SquadV2Metric(evaluate.Metric):
    """SQuAD v2.0, in percent: `exact` and `f1`; `HasAns_…` and `NoAns_…`, of questions with and without an answer.

    `best_exact` and `best_f1` are the scores at the best thresholds, `…_thresh` these thresholds.

    Args:
        **kwargs: those of `evaluate.Metric`, such as `keep_in_memory`.

    Example:
    ```python
    >>> metric = SquadV2Metric(keep_in_memory=True)
    >>> results = metric.compute(
    ...     predictions=[{"id": "1", "prediction_text": "1976", "no_answer_probability": 0.7}],
    ...     references=[{"id": "1", "answers": {"text": ["1976"], "answer_start": [97]}}],
    ...     no_answer_threshold=0.5,
    ... )
    >>> results["f1"], results["best_f1"], results["best_f1_thresh"]
    (0.0, 100.0, 0.7)

    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        predictions = {
            "id": Value("string"),
            "prediction_text": Value("string"),
            "no_answer_probability": Value("float64"),
        }
        return evaluate.MetricInfo(
            description="Exact match and F1 of SQuAD v2.0, with and without an answer, and the best thresholds.",
            citation=_CITATION,
            inputs_description=(
                "\npredictions: id, prediction_text, no_answer_probability; references: id, answers (text, "
                "answer_start).\nno_answer_threshold: above this probability the answer counts as none; default 1.\n"
            ),
            features=Features({"predictions": predictions, "references": _REFERENCES}),
        )

    def _compute(self, predictions: Rows, references: Rows, no_answer_threshold: float = 1.0) -> dict[str, float]:
        pairs = _paired(predictions, references)
        texts = [row["prediction_text"] for row, _ in pairs]
        probabilities = np.array([row["no_answer_probability"] for row, _ in pairs])
        outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
        if len(outside):
            raise ValueError(
                f"no_answer_probability={outside[0]} is not in [0, 1]; of a score s, give 1 / (1 + exp(-s))"
            )
        has_answer = np.array([bool(reference["answers"]["text"]) for _, reference in pairs])
        # Right answers that are not empty once normalised; else the empty one.
        golds = [[text for text in row["answers"]["text"] if normalize_answer(text)] or [""] for _, row in pairs]
        rows = list(zip(texts, golds, strict=True))
        formulas: dict[str, Any] = {"exact": exact_match, "f1": token_f1}
        scores = {name: np.array([formula(*row) for row in rows]) for name, formula in formulas.items()}
        counted = {
            name: np.where(probabilities > no_answer_threshold, ~has_answer, values) for name, values in scores.items()
        }
        results = _mean_scores(counted)
        for prefix, chosen in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if chosen.any():
                part = _mean_scores({name: values[chosen] for name, values in counted.items()})
                results |= {f"{prefix}_{name}": value for name, value in part.items()}
        is_answered = np.array([bool(text) for text in texts])
        for name, values in scores.items():
            best, threshold = best_threshold(values, probabilities, has_answer=has_answer, is_answered=is_answered)
            results |= {f"best_{name}": 100 * best, f"best_{name}_thresh": threshold}
        return results


def _mean_scores(scores: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: _percent(values) for name, values in scores.items()} | {"total": len(scores["f1"])}


def _percent(scores: Sequence[float] | np.ndarray) -> float:
    return float(100 * np.sum(scores) / len(scores))


def _paired(predictions: Rows, references: Rows) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each reference's prediction, by id."""
    by_id = {row["id"]: row for row in predictions}
    if not predictions:
        raise ValueError("predictions are empty; expected one for each reference")
    for name, rows in (("predictions", predictions), ("references", references)):
        if len({row["id"] for row in rows}) < len(rows):
            twice, _ = Counter(row["id"] for row in rows).most_common(1)[0]
            raise ValueError(f"{name} hold id={twice!r} more than once; expected one row a question")
    if missing := [row["id"] for row in references if row["id"] not in by_id]:
        raise ValueError(f"predictions lack id={missing[0]!r} of the references; predict an empty text for no answer")
    return [(by_id[reference["id"]], reference) for reference in references]
