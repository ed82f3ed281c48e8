"""SQuAD v1.1 and v2.0: fine-tune a model to mark answers, let it answer development questions, grade it.

Rows: `data.py`; windows: `windows.py`; spans: `answers.py`; formulas: `metrics.py`.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..evaluated_model import EvaluatedModel, load_model
from ..fine_tuning import FineTuned, fine_tune, forward, fresh_answerer, settings_from
from ..metrics import load_metric
from ..task_runs import check_length, evaluate_tasks
from .answers import RankedAnswers, rank_answers
from .data import check_task, data_files, load_squad
from .windows import SquadSettings, Window, check_windows, labelled_inputs, make_windows

logger = logging.getLogger(__name__)

_QUESTIONS_AT_ONCE = 1000
_EVEN = 0.5  # at this probability "no answer" and the best span have the same score


def evaluate_squad(
    model: str | Path,
    tasks: str | Sequence[str] = "squad_v2",
    *,
    settings: SquadSettings | Mapping[str, Any] | None = None,
    output_dir: str | Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Fine-tune a model on SQuAD with several seeds and grade its answers to the development questions.

    Finished seeds, return value and errors are as in [`evaluate_glue`]; metrics are those of [`grade`].

    Args:
        model: see [`evaluate_glue`].
        tasks: `"squad"` (v1.1), `"squad_v2"`, or both.
        settings: [`SquadSettings`], or some of them by name.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.
    """
    names = [tasks] if isinstance(tasks, str) else list(dict.fromkeys(tasks))
    settings = settings_from(SquadSettings, settings)
    for name in names:
        check_task(name)
        if settings.data_dir is not None:
            data_files(name, settings.data_dir)
    evaluated = load_model(model, output_dir)
    check_windows(settings, evaluated.tokenizer)
    check_length(settings, evaluated)
    rows = (load_squad(name, settings.data_dir) for name in names)
    return evaluate_tasks(evaluated, rows, answer_metrics, settings=settings, say=say)


def answer_metrics(
    evaluated: EvaluatedModel,
    task: str,
    rows: Dataset,
    measured_on: Mapping[str, Dataset],
    *,
    settings: SquadSettings,
    seed: int,
) -> tuple[dict[str, dict[str, float]], FineTuned]:
    """Fine-tune once and grade: see [`Measure`]."""
    tokenizer, encoder = evaluated.tokenizer, evaluated.model.base_model
    answerer = fresh_answerer(encoder, dropout=settings.dropout_fraction, seed=seed)
    trained = fine_tune(answerer, training_windows(rows, tokenizer, settings), tokenizer, settings=settings, seed=seed)
    found = {
        name: grade(task, dev, answer_questions(trained.model, dev, tokenizer, settings))
        for name, dev in measured_on.items()
    }
    return found, trained


def training_windows(rows: Dataset, tokenizer: PreTrainedTokenizerBase, settings: SquadSettings) -> Dataset:
    """Cut questions into windows to learn from: model inputs, `start_positions`, `end_positions`, `length`."""
    parts = []
    for batch in _batches(rows):
        labelled = [labelled_inputs(window, batch[window.row]) for window in make_windows(batch, tokenizer, settings)]
        parts.append(Dataset.from_list([inputs | {"length": len(inputs["input_ids"])} for inputs in labelled]))
    return datasets.concatenate_datasets(parts)


def answer_questions(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, settings: SquadSettings
) -> list[RankedAnswers]:
    """Let any `AutoModelForQuestionAnswering` answer, in evaluation mode and float32.

    Memory: the windows and logits of 1,000 questions, 8 bytes of logits a token of a window, on the host.

    Raises:
        FloatingPointError: logits are not finite.
    """
    ranked = []
    for batch in _batches(rows):
        windows = make_windows(batch, tokenizer, settings)
        found = zip(windows, _window_logits(model, windows, tokenizer), strict=True)
        for row, of_row in groupby(found, key=lambda pair: pair[0].row):
            limits = {"max_answer_tokens": settings.max_answer_tokens, "num_best": settings.num_best}
            of_windows, logits = zip(*of_row, strict=True)
            ranked.append(rank_answers(batch[row]["context"], of_windows, logits, **limits))
    return ranked


def grade(task: str, rows: Dataset, ranked: list[RankedAnswers]) -> dict[str, float]:
    """Grade answers by the task's official metrics, in percent; thresholds are in [0, 1].

    In SQuAD v2.0 the prediction is "no answer" where its score is above the best span's: a threshold of 0 on their
    difference. `best_exact` and `best_f1` use the best threshold for these questions. Thresholds are probabilities p,
    which stand for differences of log(p / (1 - p)).
    """
    references = [{"id": row["id"], "answers": row["answers"]} for row in rows]
    given = list(zip(rows["id"], ranked, strict=True))
    if task == "squad":
        predictions = [{"id": identity, "prediction_text": answers.text} for identity, answers in given]
        return load_metric(task).compute(predictions=predictions, references=references)
    predictions = [
        {"id": id_, "prediction_text": answers.text, "no_answer_probability": answers.no_answer_probability}
        for id_, answers in given
    ]
    graded = load_metric(task).compute(predictions=predictions, references=references, no_answer_threshold=_EVEN)
    return {name: value for name, value in graded.items() if not name.endswith("total")}


def _batches(rows: Dataset) -> Iterator[list[dict[str, Any]]]:
    for first in range(0, len(rows), _QUESTIONS_AT_ONCE):
        yield rows.select(range(first, min(first + _QUESTIONS_AT_ONCE, len(rows)))).to_list()


def _window_logits(
    model: PreTrainedModel, windows: list[Window], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits of starts and ends, float32 `(T,)` each, padding included, in the order of the windows."""
    order = sorted(range(len(windows)), key=lambda index: len(windows[index].inputs["input_ids"]))
    logits: list[tuple[np.ndarray, np.ndarray]] = []
    for outputs in forward(model, [dict(windows[index].inputs) for index in order], tokenizer):
        starts, ends = (outputs[name].float().cpu().numpy() for name in ("start_logits", "end_logits"))
        if not (np.isfinite(starts).all() and np.isfinite(ends).all()):
            raise FloatingPointError(
                f"logits of {type(model).__name__} are not finite: fine-tuning diverged; lower learning_rate, or "
                "train in dtype=float32"
            )
        logits += zip(starts, ends, strict=True)
    return [logits[place] for place in np.argsort(order)]
