"""GLUE: fine-tunes a model on every task with several seeds and measures it by the task's official metrics.

Rows: task_data.py; formulas: metrics.py; learning rates and files of results: task_runs.py.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from ..models.heads import fresh_classifier, start_at_mean
from .evaluated_model import EvaluatedModel, load_model, results_claimed
from .fine_tuning import (
    FineTuned,
    FineTuningSettings,
    GlueSettings,
    fine_tune,
    predict,
    settings_from,
)
from .metrics import load_metric
from .task_data import GLUE_TASKS, GlueTask, check_tasks, data_folder, encode, load_glue
from .task_runs import evaluate_tasks, with_length

logger = logging.getLogger(__name__)


def evaluate_glue(
    model: str | Path,
    tasks: str | Sequence[str] = "glue",
    *,
    settings: GlueSettings | Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Fine-tune a model on GLUE tasks and measure it on their dev sets.

    Each seed is a training of stock transformers' sequence classifier with a fresh pooler and output layer.
    A finished (task, seed) of the same weights, data and settings is read, not run again; one that SIGTERM stopped
    goes on. An export's `facts.json` and card are brought up to date.

    Args:
        model: export of either format, finished run, `checkpoint-N`, or folder or Hub name of a stock model.
        tasks: names, or `"glue"` for all nine.
        settings: [`GlueSettings`], or some of them by name.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `summary.json`: `model`, `tasks` (name → `score` and `metrics` with `mean` and `std`
        over seeds, `seeds`, `conditions` …) and `discrepancy` if measured earlier. A task measured on part of its data
        has a name that ends in `_part`.

    Raises:
        ValueError: unknown task or setting, missing data, or no model that can be evaluated.
        OSError: a file or the Hub can't be read, or results can't be written.
        FloatingPointError: a fine-tuning diverged.
    """
    names, settings = check_tasks(tasks), settings_from(GlueSettings, settings)
    for name in names:
        if settings.data_dir is not None:
            data_folder(name, settings.data_dir)
    with results_claimed(model, output_dir):
        evaluated = load_model(model, output_dir)
        settings = with_length(settings, evaluated)
        rows = (load_glue(name, settings.data_dir) for name in names)
        return evaluate_tasks(evaluated, rows, classification_metrics, settings=settings, say=say)


def classification_metrics(
    evaluated: EvaluatedModel,
    task: str,
    rows: Dataset,
    measured_on: Mapping[str, Dataset],
    *,
    settings: GlueSettings,
    seed: int,
    teacher: PreTrainedModel | None = None,
    folder: Path | None = None,
) -> tuple[dict[str, dict[str, float]], FineTuned]:
    """Fine-tune once and measure: see [`Measure`]. A predicted similarity is not clipped to 0 … 5.

    With a `teacher`, fine-tuned for the task, the model also learns its predictions and hidden states.
    """
    described, tokenizer = GLUE_TASKS[task], evaluated.tokenizer
    trained = fine_tuned_classifier(
        evaluated, described, rows, settings=settings, seed=seed, teacher=teacher, folder=folder
    )
    found = {}
    for name, dev in measured_on.items():
        logits, labels = predict(trained.model, encode(dev, described, tokenizer, settings.row_length), tokenizer)
        predictions = logits[:, 0] if described.num_labels == 1 else logits.argmax(-1)
        found[name] = load_metric(task).compute(predictions=predictions, references=labels)
    return found, trained


def fine_tuned_classifier(
    evaluated: EvaluatedModel,
    task: GlueTask,
    rows: Dataset,
    *,
    settings: FineTuningSettings,
    seed: int,
    **how: Any,
) -> FineTuned:
    """Fine-tune a fresh classifier around a model's encoder on rows of a task; arguments as those of [`fine_tune`]."""
    classifier = fresh_classifier(
        evaluated.model.base_model, task.num_labels, dropout=settings.dropout_fraction, seed=seed
    )
    encoded = encode(rows, task, evaluated.tokenizer, settings.row_length)
    if task.num_labels == 1:
        start_at_mean(classifier, encoded["labels"][:])
    return fine_tune(classifier, encoded, evaluated.tokenizer, settings=settings, seed=seed, **how)
