"""Reads a fine-tuned model's rows from files, by its head: encoded training rows, and a measure on others."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import NamedTuple

from datasets import Dataset
from transformers import PreTrainedModel

from ...evaluation.evaluated_model import EvaluatedModel
from ...evaluation.glue.data import GlueTask, encode
from ...evaluation.own_task import OwnTaskSettings, are_numbered, check_labels, rows_of, task_metrics
from ...evaluation.squad.data import read_questions
from ...evaluation.squad.evaluate import answer_questions, grade, training_windows
from ...evaluation.squad.windows import SquadSettings, check_windows
from ...evaluation.task_runs import check_length, training_rows
from ...files.messages import short_repr

_MOST_SHARED, _MOST_QUESTION_TOKENS = 128, 64


class TaskRows(NamedTuple):
    """Rows of a task.

    Args:
        encoded: training rows as model inputs, unpadded, with labels and `length`.
        measure: model → its metrics on the evaluation rows.
    """

    encoded: Dataset
    measure: Callable[[PreTrainedModel], dict[str, float]]


def task_rows(settings: OwnTaskSettings, evaluated: EvaluatedModel) -> TaskRows:
    """Read the rows that a model with a head for classification, regression or questions was fine-tuned for.

    Raises:
        ValueError: another head, other labels, or rows that can't be used.
    """
    name = type(evaluated.model).__name__
    read = next((read for head, read in _READERS.items() if name.endswith(head)), None)
    if read is None:
        raise ValueError(f"model={name} is for no task that is measured here; expected …{' or …'.join(_READERS)}")
    check_length(settings, evaluated)
    return read(settings, evaluated)


def _labelled(settings: OwnTaskSettings, evaluated: EvaluatedModel) -> TaskRows:
    tokenizer = evaluated.tokenizer
    train, dev, names = rows_of(settings)
    check_labels(evaluated.model, names, argument="model", are_numbered=are_numbered(train))
    task = GlueTask("own", settings.text_columns, num_labels=len(names) or 1)
    encoded = encode(training_rows(train, settings.max_train_samples), task, tokenizer, settings.max_length)
    return TaskRows(
        encoded, partial(task_metrics, rows=dev, task=task, tokenizer=tokenizer, max_length=settings.max_length)
    )


def _questions(settings: OwnTaskSettings, evaluated: EvaluatedModel) -> TaskRows:
    """Rows with the columns of SQuAD; the task is version 2.0 where a question has no answer."""
    tokenizer = evaluated.tokenizer
    for field in fields(OwnTaskSettings):
        if field.name in ("text_columns", "label_column") and getattr(settings, field.name) != field.default:
            raise ValueError(
                f"{field.name}={short_repr(getattr(settings, field.name))} has no place with a model that answers "
                "questions: its rows have the columns of SQuAD; leave it out"
            )
    third = settings.max_length // 3
    windows = SquadSettings(
        max_length=settings.max_length,
        stride=min(_MOST_SHARED, third),
        max_question_tokens=min(_MOST_QUESTION_TOKENS, third),
    )
    check_windows(windows, tokenizer)
    train, dev = (read_questions(getattr(settings, name), argument=name) for name in ("train_data", "eval_data"))
    task = "squad" if all(answers["text"] for part in (train, dev) for answers in part["answers"]) else "squad_v2"

    def graded(model: PreTrainedModel) -> dict[str, float]:
        return grade(task, dev, answer_questions(model, dev, tokenizer, windows))

    return TaskRows(training_windows(training_rows(train, settings.max_train_samples), tokenizer, windows), graded)


_READERS: dict[str, Callable[[OwnTaskSettings, EvaluatedModel], TaskRows]] = {
    "ForSequenceClassification": _labelled,
    "ForQuestionAnswering": _questions,
}
