"""Tasks of one's own beside single classes and values: tags of words, several labels or values, answers to questions.

The kind is found by the rows' columns. own_task.py chooses the rate, trains and saves.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset, List
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..distillation.task_scores import TaskMeter
from ..distillation.tasks import task_of
from ..files.messages import join_some, short_repr
from ..models.heads import PREDICTION_BATCH_SIZE, fresh_answerer, fresh_classifier, fresh_tagger
from ..tasks.answers import answer_grades
from ..tasks.columns import Columns, ReadRows, class_names, find_columns, is_missing
from ..tasks.encoding import LEAST_ROWS, check_rows, encode_rows, question_rows
from ..tasks.held_out import apart
from ..tasks.kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES, names_of
from ..tasks.labels import as_list
from ..tasks.metrics import class_scores
from ..tasks.reading import load_rows
from ..tasks.tags import entries_of, span_parts
from .evaluated_model import EvaluatedModel
from .fine_tuning import (
    FineTuned,
    FineTuningSettings,
    collator_for,
    fine_tune,
)

logger = logging.getLogger(__name__)

_HEADS = {LABELS: "ForSequenceClassification", VALUES: "ForSequenceClassification"}
_HEADS |= {TAGS: "ForTokenClassification", ANSWERS: "ForQuestionAnswering"}
_OUTSIDE = "O"


@dataclass(frozen=True)
class KindTask:
    """A task of another kind than one class or value a text.

    Args:
        columns: of its rows.
        names: of the classes or values; none for questions.
    """

    columns: Columns
    names: tuple[str, ...]

    @property
    def group_column(self) -> str | None:
        """Column whose rows stay together when rows are held out: the questions of a context."""
        return self.columns.texts[1] if self.columns.kind == ANSWERS else None

    def fine_tuned(
        self, evaluated: EvaluatedModel, rows: Dataset, *, settings: FineTuningSettings, seed: int, **how: Any
    ) -> FineTuned:
        """Fine-tune a fresh head around a model's encoder; arguments as those of [`fine_tune`]."""
        model = self._fresh(evaluated.model.base_model, dropout=settings.dropout_fraction, seed=seed)
        encoded = self._encoded(rows, model.config, evaluated.tokenizer, settings.row_length)
        return fine_tune(model, encoded, evaluated.tokenizer, settings=settings, seed=seed, **how)

    def metrics(
        self, model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict[str, float]:
        """The task's metrics of a model on rows; rates are compared by the first one."""
        if self.columns.kind == ANSWERS:
            questions = question_rows(rows, self.columns, "rows")
            return {} if questions is None else answer_grades(model, questions, tokenizer, max_length)
        encoded = self._encoded(rows, model.config, tokenizer, max_length).remove_columns("length")
        meter = _measured(model, encoded, tokenizer, self.names)
        scores = meter.scores()
        if self.columns.kind == TAGS and scores:
            # kept are (R, 3): given class, wanted class, number of the row
            given_R, wanted_R, _ = np.concatenate(meter.kept).T
            is_known_R = meter.task.is_known(torch.tensor(wanted_R)).numpy()
            scores["accuracy"] = class_scores(given_R[is_known_R], wanted_R[is_known_R])["accuracy"]
        return scores

    def check_teacher(self, teacher: PreTrainedModel, model: PreTrainedModel) -> None:
        """Refuse, by a ValueError, a teacher of another kind, of other labels or of other layers than the model's."""
        head = _HEADS[self.columns.kind]
        if not type(teacher).__name__.endswith(head):
            raise ValueError(f"teacher is a {type(teacher).__name__}, the rows are for …{head}; fine-tune it on them")
        if self.names and names_of(teacher.config) != list(self.names):
            raise ValueError(
                f"teacher has the labels {short_repr(names_of(teacher.config))}, the rows "
                f"{short_repr(list(self.names))}; fine-tune it on these rows"
            )
        check_shape(teacher, model)

    def _fresh(self, encoder: PreTrainedModel, **how: Any) -> PreTrainedModel:
        if self.columns.kind == ANSWERS:
            return fresh_answerer(encoder, **how)
        if self.columns.kind == TAGS:
            model = fresh_tagger(encoder, len(self.names), **how)
        else:
            model = fresh_classifier(encoder, len(self.names), **how)
            is_value = self.columns.kind == VALUES
            model.config.problem_type = "regression" if is_value else "multi_label_classification"
        model.config.id2label = dict(enumerate(self.names))
        model.config.label2id = {name: number for number, name in enumerate(self.names)}
        return model

    def _encoded(
        self, rows: Dataset, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Dataset:
        encoded = encode_rows(rows, self.columns, config, tokenizer, max_length=max_length)
        return encoded.add_column("length", list(map(len, encoded["input_ids"])))


def check_shape(teacher: PreTrainedModel, model: PreTrainedModel) -> None:
    """Refuse, by a ValueError, a teacher of another vocabulary than the model's, or of fewer layers."""
    for what in ("vocab_size", "num_hidden_layers"):
        given, expected = getattr(teacher.config, what), getattr(model.config, what)
        if given < expected or (what == "vocab_size" and given != expected):
            raise ValueError(f"teacher has {what}={given}, model {expected}; choose the one the model was made from")


@torch.inference_mode()
def _measured(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, names: Sequence[str]
) -> TaskMeter:
    """A meter with a model's predictions, in float32 and evaluation mode."""
    model.eval()
    task = task_of(model)
    meter = TaskMeter(task, names)
    for batch in DataLoader(rows, batch_size=PREDICTION_BATCH_SIZE, collate_fn=collator_for(model, tokenizer)):
        inputs = task.with_positions({name: tensor.to(model.device) for name, tensor in batch.items()})
        with torch.autocast(model.device.type, enabled=False):
            outputs = type(model).forward(model, **task.model_inputs(inputs))
        meter.keep(task.rows(outputs, inputs), task.labels(inputs), inputs)
    return meter


def task_in(rows: Dataset, settings: Any, config: PreTrainedConfig | None = None) -> KindTask | Columns | None:
    """The task of rows, by their columns.

    Args:
        rows: with all columns.
        settings: `text_columns` and `label_column`, where they are not the defaults.
        config: of a teacher, whose labels may be columns.

    Returns:
        [`KindTask`]; for one class or value a text its columns; None where no usual columns are found.

    Raises:
        ValueError: several columns of numbers, of which none is named.
    """
    defaults = type(settings).__dataclass_fields__
    given: dict[str, Any] = {
        name: getattr(settings, name)
        for name in ("text_columns", "label_column")
        if getattr(settings, name) != defaults[name].default
    }
    # A column that is called as the default is meant; tags and questions have columns of other names.
    present = dict(given)
    if set(settings.text_columns) <= set(rows.column_names):
        present["text_columns"] = settings.text_columns
    if settings.label_column in rows.column_names:
        present["label_column"] = settings.label_column
    for kind in (ANSWERS, TAGS, LABELS, CLASSES, VALUES):
        named = given if kind in (ANSWERS, TAGS) else present
        try:
            columns = find_columns(rows, config or PreTrainedConfig(num_labels=2), kind, **named)
        except ValueError:
            continue
        if columns.labels and (found := _as(kind, rows, columns)) is not None:
            return found
    _name_columns_of_numbers(rows, settings)
    return None


def _as(kind: str, rows: Dataset, columns: Columns) -> KindTask | Columns | None:
    """The task of rows that are read as of a kind; None where they aren't."""
    if len(columns.labels) > 1:
        return _of_columns(rows, columns) if kind == LABELS else None
    values = [value for value in rows[columns.labels[0]][:] if not is_missing(value)]
    if kind == ANSWERS:
        return KindTask(columns, ()) if values and isinstance(values[0], dict) else None
    if kind == TAGS:
        is_tagged = columns.are_words or any(_are_spans(value) for value in values)
        return KindTask(columns, tuple(_tags(values, rows, columns))) if is_tagged else None
    if kind in (CLASSES, VALUES):
        return columns
    # several labels are lists, or words that are written as such
    lists = isinstance(rows.features[columns.labels[0]], List) or any(str(value).startswith("[") for value in values)
    return _of_several([as_list(value) for value in values], rows, columns) if lists else None


def _are_spans(value: Any) -> bool:
    return any(isinstance(span, list | dict) for span in (as_list(value) if value else ()))


def _tags(values: Sequence[Any], rows: Dataset, columns: Columns) -> list[str]:
    if names := class_names(rows.features[columns.labels[0]]):
        return names
    read = entries_of if columns.are_words else as_list
    entries = [entry for value in values for entry in read(value)]
    if columns.are_words:
        return _with_outside_first({str(tag) for tag in entries if not is_missing(tag)})
    types = {str(kind) for *_, kind in map(span_parts, entries) if kind is not None}
    return [_OUTSIDE, *(f"{mark}-{kind}" for kind in sorted(types) for mark in "BI")]


def _with_outside_first(tags: set[str]) -> list[str]:
    are_numbers = all(tag.isdigit() for tag in tags)
    ordered = sorted(tags, key=int) if are_numbers else sorted(tags, key=lambda tag: (tag != _OUTSIDE, tag))
    # numbers without names may have gaps: all up to the largest are classes
    return list(map(str, range(int(ordered[-1]) + 1))) if are_numbers and ordered else ordered


def _of_columns(rows: Dataset, columns: Columns) -> KindTask:
    """Several labels, where all columns hold 0 and 1; else several values."""
    cells = {str(cell).casefold() for name in columns.labels for cell in rows[name][:] if not is_missing(cell)}
    kind = LABELS if cells <= {"0", "1", "0.0", "1.0", "false", "true"} else VALUES
    return KindTask(replace(columns, kind=kind), columns.labels)


def _of_several(lists: list[list[Any]], rows: Dataset, columns: Columns) -> KindTask:
    flat = [entry for row in lists for entry in row]
    lengths = {len(row) for row in lists}
    # equally many numbers a row: one-hot, or values where some are fractions
    if len(lengths) == 1 and flat and all(isinstance(entry, int | float) for entry in flat):
        is_hot = {float(entry) for entry in flat} <= {0.0, 1.0}
        if is_hot or any(isinstance(entry, float) for entry in flat):
            numbers = tuple(map(str, range(lengths.pop())))
            return KindTask(replace(columns, kind=LABELS if is_hot else VALUES), numbers)
    names = class_names(rows.features[columns.labels[0]]) or _with_outside_first(set(map(str, flat)))
    return KindTask(columns, tuple(names))


def split_rows(task: KindTask, train: Dataset, settings: Any) -> tuple[Dataset, Dataset]:
    """Rows to train on and rows to evaluate on, which are kept aside where `settings` name no others.

    Raises:
        ValueError: rows that don't fit, or aren't there.
        OSError: they can't be read.
    """
    check_rows(train, task.columns, "train_data", least=LEAST_ROWS)
    if settings.eval_data:
        dev = _rows_to_evaluate(settings.eval_data, task)
    else:
        train, dev = rows_aside(train, task.columns)
    if len(task.names) < 2 and task.columns.kind != ANSWERS:
        raise ValueError(f"train_data has the labels {short_repr(list(task.names))}; expected two or more")
    return train, dev


def _name_columns_of_numbers(rows: Dataset, settings: Any) -> None:
    """Where no column has the labels' name but several hold numbers, refuse and say how these are named."""
    if settings.label_column in rows.column_names or not set(settings.text_columns) <= set(rows.column_names):
        return  # own_labels.py says what is wrong
    others = [name for name in rows.column_names if name not in settings.text_columns]
    several = [name for name in others if _are_worths(rows[name][:])]
    if len(several) > 1:
        raise ValueError(
            f"train_data lacks the column {settings.label_column!r}; {join_some(map(repr, several))} hold numbers: "
            f"for several values or labels a row set label_column={','.join(several)}, or name one column"
        )


def _are_worths(cells: Sequence[Any]) -> bool:
    """Whether cells hold fractions, or 0 and 1 alone; whole numbers may count the rows."""
    try:
        numbers = {float(cell) for cell in cells if not is_missing(cell)}
    except (TypeError, ValueError):
        return False
    return any(number % 1 for number in numbers) or numbers == {0.0, 1.0}


def _rows_to_evaluate(source: str, task: KindTask) -> Dataset:
    """Read rows that have the task's columns."""
    rows = load_rows([source], split="validation", argument="eval_data")
    config = PreTrainedConfig(num_labels=max(1, len(task.names)))
    labels = ",".join(task.columns.labels)
    how: dict[str, Any] = {"text_columns": task.columns.texts, "label_column": labels, "argument": "eval_data"}
    find_columns(rows, config, task.columns.kind, **how)
    check_rows(rows, task.columns, "eval_data", least=LEAST_ROWS)
    return rows


def rows_aside(rows: Dataset, columns: Columns) -> tuple[Dataset, Dataset]:
    """Split rows into those to train on and those to evaluate on, see [`apart`], and say so."""
    train, dev = apart(ReadRows(rows, columns, "train_data"), logger.info)
    return train.rows, dev.rows
