"""The official metrics of the nine GLUE tasks, as modules that need no download.

The formulas are scikit-learn's and SciPy's, the `[evaluation]` extra, imported when they are needed. `data.py` names
the metrics of each task.
"""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value

from .data import GLUE_TASKS

_REQUIRED = {"sklearn": "scikit-learn", "scipy": "scipy"}


def missing_packages() -> list[str]:
    """Names of the packages of the `[evaluation]` extra that are not installed."""
    return [package for module, package in _REQUIRED.items() if importlib.util.find_spec(module) is None]


class GlueMetric(evaluate.Metric):
    """The official metrics of one GLUE task, all in [-1, 1].

    An undefined score is 0, as scikit-learn has it for Matthews correlation and F1: a correlation with constant
    predictions or references, an F1 without any positive.

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
