"""The official metrics of GLUE and SQuAD, as modules of `evaluate` that need no download.

GLUE's formulas are scikit-learn's and SciPy's, the `[evaluation]` extra, imported when they are needed. SQuAD's
formulas follow the published definition (Rajpurkar et al. 2016, 2018). Their inputs and names of results are those of
the Hub's `squad` and `squad_v2` metrics, all in percent. metrics.py imports this file when a metric is asked for.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import evaluate
import numpy as np
from datasets import Features, List, Value

from ..training.answers import exact_match, normalize_answer, token_f1
from .task_data import GLUE_TASKS

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
        formulas = _formulas()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="A single label was found")
            return {name: float(formulas[name](wanted, given)) for name in GLUE_TASKS[self.config_name].metrics}


def _formulas() -> dict[str, Callable[[np.ndarray, np.ndarray], Any]]:
    """Name of a metric → formula of (references, predictions)."""
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    return {
        "accuracy": accuracy_score,
        "f1": partial(f1_score, zero_division=0.0),
        "matthews_correlation": matthews_corrcoef,
        "pearson": partial(_correlation, pearsonr),
        "spearmanr": partial(_correlation, spearmanr),
    }


def _correlation(formula: Callable[..., Any], wanted: np.ndarray, given: np.ndarray) -> float:
    # SciPy returns NaN for constants; JSON has none, and it would spread to every average.
    if np.ptp(given) == 0 or np.ptp(wanted) == 0:
        return 0.0
    return formula(given, wanted).statistic


def best_threshold(
    scores: np.ndarray, no_answer_probabilities: np.ndarray, *, has_answer: np.ndarray, is_answered: np.ndarray
) -> tuple[float, float]:
    """Find the best probability above which "no answer" is predicted, by a sweep over all probabilities.

    The sweep starts with no question answered. It answers questions by rising probability of no answer, equal ones in
    the order given. Then a question that has an answer adds its score. A question that has none loses its point if
    the model's answer isn't empty.

    Args:
        scores: float `(N,)`, each question's score if the model's answer is given, in [0, 1].
        no_answer_probabilities: float `(N,)`, the model's belief that there is no answer, in [0, 1].
        has_answer: bool `(N,)`, whether there is one.
        is_answered: bool `(N,)`, whether the model's answer is not empty.

    Returns:
        `tuple[float, float]`: the best mean score, in [0, 1], and the first threshold that reaches this score; 0 where
        it is best to answer nothing.
    """
    # totals[n]: score with the first n questions of the order answered; all questions without an answer count at 0.
    order = np.argsort(no_answer_probabilities, kind="stable")
    gains = np.where(has_answer, scores, -np.asarray(is_answered, dtype=np.float64))[order]
    totals = np.cumsum([np.count_nonzero(~has_answer), *gains])
    best = int(np.argmax(totals))
    threshold = 0.0 if best == 0 else float(no_answer_probabilities[order[best - 1]])
    return float(totals[best]) / len(scores), threshold


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
        _check_probabilities(probabilities)
        has_answer = np.array([bool(reference["answers"]["text"]) for _, reference in pairs])
        # Right answers that are not empty once normalised; else the empty one.
        golds = [[text for text in row["answers"]["text"] if normalize_answer(text)] or [""] for _, row in pairs]
        scores = {"exact": _scores(exact_match, texts, golds), "f1": _scores(token_f1, texts, golds)}
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


def _scores(formula: Callable[..., float], texts: list[str], golds: list[list[str]]) -> np.ndarray:
    return np.array([formula(text, answers) for text, answers in zip(texts, golds, strict=True)])


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


def _check_probabilities(probabilities: np.ndarray) -> None:
    outside = probabilities[~((probabilities >= 0) & (probabilities <= 1))]
    if len(outside):
        raise ValueError(f"no_answer_probability={outside[0]} is not in [0, 1]; of a score s, give 1 / (1 + exp(-s))")
