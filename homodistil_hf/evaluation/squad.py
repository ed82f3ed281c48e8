"""SQuAD v1.1 and v2.0: fine-tunes a model to mark answers, lets it answer development questions, grades it.

A context that is too long for one window of tokens is cut into several windows that overlap. The score of a span is
the start logit of its first token plus the end logit of its last token. Rows: task_data.py; formulas: metrics.py;
learning rates and files of results: task_runs.py.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..files.field_checks import describe_settings, setting
from ..models.heads import fresh_answerer
from ..tasks.answers import _EVEN, RankedAnswers, _batches, answer_questions
from ..tasks.questions import check_windows, labelled_inputs, make_windows
from .evaluated_model import EvaluatedModel, load_model, results_claimed
from .fine_tuning import FineTuned, GlueSettings, fine_tune, settings_from
from .metrics import load_metric
from .task_data import check_squad_task, load_squad, squad_files
from .task_runs import evaluate_tasks, with_length

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
@describe_settings
class SquadSettings(GlueSettings):
    """Settings of SQuAD fine-tuning, the same for every model of a comparison.

    Raises:
        ValueError: a value is out of range.

    Example:
    ```python
    >>> SquadSettings(num_best=0)
    Traceback (most recent call last):
    ...
    ValueError: num_best=0 is not a whole number of at least 1; the default is 20

    ```
    """

    max_length: int | None = setting(
        None,
        "Tokens a window, ≥ 8; longer contexts take several (default: 384, or the positions, with shorter questions "
        "and strides).",
        least=8,
    )
    stride: int = setting(128, "Tokens that two windows of a context share, ≥ 0.", least=0)
    max_question_tokens: int = setting(64, "Tokens of a question that are read, ≥ 1.", least=1)
    max_answer_tokens: int = setting(30, "Longest answer, in tokens, ≥ 1.", least=1)
    num_best: int = setting(20, "Spans of each window that compete, ≥ 1.", least=1)
    default_length: ClassVar[int] = 384


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
        check_squad_task(name)
        if settings.data_dir is not None:
            squad_files(name, settings.data_dir)
    with results_claimed(model, output_dir):
        evaluated = load_model(model, output_dir)
        settings = _fitted(settings, evaluated)
        check_windows(settings, evaluated.tokenizer)
        rows = (load_squad(name, settings.data_dir) for name in names)
        return evaluate_tasks(evaluated, rows, answer_metrics, settings=settings, say=say)


def _fitted(settings: SquadSettings, evaluated: EvaluatedModel) -> SquadSettings:
    """The settings with windows that a model reads."""
    fitted = with_length(settings, evaluated)
    return fitted if settings.max_length is not None else in_thirds(fitted)


def answer_metrics(
    evaluated: EvaluatedModel,
    task: str,
    rows: Dataset,
    measured_on: Mapping[str, Dataset],
    *,
    settings: SquadSettings,
    seed: int,
    folder: Path | None = None,
) -> tuple[dict[str, dict[str, float]], FineTuned]:
    """Fine-tune once and grade: see [`Measure`]."""
    tokenizer, encoder = evaluated.tokenizer, evaluated.model.base_model
    answerer = fresh_answerer(encoder, dropout=settings.dropout_fraction, seed=seed)
    windows = training_windows(rows, tokenizer, settings)
    trained = fine_tune(answerer, windows, tokenizer, settings=settings, seed=seed, folder=folder)
    found = {
        name: grade(task, dev, answer_questions(trained.model, dev, tokenizer, settings, **limits_of(settings)))
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


def in_thirds(settings: SquadSettings) -> SquadSettings:
    """The settings with no more than a third of a window for what is shared and for the question, if not given."""
    third = settings.row_length // 3
    given = {name: getattr(settings, name) for name in ("stride", "max_question_tokens")}
    defaults = SquadSettings.__dataclass_fields__
    shorter = {name: min(value, third) for name, value in given.items() if value == defaults[name].default}
    return replace(settings, **shorter)


def limits_of(settings: SquadSettings) -> dict[str, int]:
    """The settings of the search for spans."""
    return {"max_answer_tokens": settings.max_answer_tokens, "num_best": settings.num_best}
