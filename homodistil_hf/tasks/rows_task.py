"""The task of labelled rows that no model has names for yet: kind, columns and classes, by columns and values.

`columns.py` finds the columns of a kind, `labels.py`, `tags.py` and `encoding.py` read labels by the names found here.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel

from ..data.delimited import parsed_cell
from ..data.masking import IGNORED_LABEL, UNKNOWN_CLASS
from ..data.triplets import by_lower_name
from ..files.messages import join_some, short_repr
from .columns import (
    CLASS_COLUMNS,
    MARKS,
    SPAN_COLUMNS,
    TAG_COLUMNS,
    Columns,
    ReadRows,
    class_names,
    empty_labels,
    find_columns,
    is_missing,
    is_of_words,
    known_labels,
    listed_columns,
    num_labelled,
    words_column,
)
from .kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES, task_kind_of
from .labels import (
    are_several,
    as_list,
    check_entries,
    label_numbers,
    lists_of,
    plain_labels,
)
from .tags import entries_of, read_span, scheme_of

logger = logging.getLogger(__name__)

_PROBLEMS = {
    CLASSES: "single_label_classification",
    LABELS: "multi_label_classification",
    VALUES: "regression",
}
_OUTSIDE = "O"
_MOST_SHOWN = 10
_MOST_CLASSES = 1 << 24
_FEW_ROWS, _MANY_ROWS = 3, 100


@dataclass(frozen=True)
class RowsTask:
    """A task of labelled rows.

    Args:
        columns: of the rows, and their kind.
        names: of the classes, labels or values; none for answers and for a single value.
    """

    columns: Columns
    names: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """One of those in kinds.py."""
        return self.columns.kind

    @property
    def num_labels(self) -> int:
        """Outputs of a model's head."""
        return 2 if self.kind == ANSWERS else max(1, len(self.names))

    @property
    def config(self) -> PreTrainedConfig:
        """The labels, as a model's configuration has them."""
        names = self.names or [f"LABEL_{number}" for number in range(self.num_labels)]
        label2id = {name: number for number, name in enumerate(names)}
        return PreTrainedConfig(
            id2label=dict(enumerate(names)), label2id=label2id, problem_type=_PROBLEMS.get(self.kind)
        )


# Columns and kind


def columns_of_rows(
    rows: Dataset,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    model: PreTrainedModel | None = None,
    needs_labels: bool = True,
) -> Columns:
    """Find columns and kind.

    Args:
        rows: with all their columns.
        text_columns: one, or two of a pair; default: found by their usual names.
        label_column: one, or several with commas between them; default: found by its usual names.
        model: has the task's kind and labels; default: the rows have them.
        needs_labels: whether rows without labels are refused.

    Raises:
        ValueError: a column that isn't there, no text, or no labels.
    """
    if model is None:
        kind, config = _kind(rows, text_columns, listed_columns(label_column)), PreTrainedConfig(num_labels=2)
    else:
        kind, config = task_kind_of(model.config, type(model).__name__), model.config
    columns = find_columns(rows, config, kind, text_columns=text_columns, label_column=label_column)
    # a value has usual names that a class hasn't
    if model is None and kind == CLASSES and not columns.labels:
        columns = find_columns(rows, config, VALUES, text_columns=text_columns)
    if columns.labels or not needs_labels:
        return columns
    if (empty := empty_labels(rows, columns)) is not None:
        num_labelled([ReadRows(rows, empty)])
    raise ValueError(
        "train_data lacks the column 'label'; name text_columns and label_column; it has "
        f"{join_some(map(short_repr, rows.column_names))}; labels in several columns are label_column=joy,fear"
    )


def _kind(rows: Dataset, texts: Sequence[str], labels: Sequence[str]) -> str:
    """The kind of rows, by the first values of the columns that their labels would be in."""
    by_name = by_lower_name(name for name in rows.column_names if name not in texts)

    def column(usual: Sequence[str]) -> list[Any]:
        """Known values of the column of labels, named or of a usual name."""
        name = next(iter(labels), None) or next((by_name[name] for name in usual if name in by_name), None)
        cells = rows[name][:] if name in rows.column_names else []
        return [cell for cell in cells if not is_missing(cell)]

    answers = next(iter(column(["answers"])), None)
    answers = parsed_cell(answers) if isinstance(answers, str) else answers  # of a file of words
    if isinstance(answers, Mapping) or (isinstance(answers, list) and isinstance(next(iter(answers), None), Mapping)):
        return ANSWERS
    has_words = is_of_words(texts) if texts else words_column(rows) is not None
    spans = (span for cell in column(SPAN_COLUMNS) if cell for span in as_list(cell))
    are_spans = (isinstance(span, list) or read_span(span).start is not None for span in spans)
    # a number is no row of tags, but the label of a text that has its words beside it
    if (has_words and any(not isinstance(cell, int | float) for cell in column(TAG_COLUMNS))) or any(are_spans):
        return TAGS
    return LABELS if len(labels) > 1 or are_several(column(CLASS_COLUMNS)) else CLASSES


# Names


def task_of_rows(parts: Mapping[str, Dataset], columns: Columns) -> RowsTask:
    """The task of rows whose columns are known.

    Args:
        parts: name in messages → rows; the first are those to train on.
        columns: of all of them.

    Raises:
        ValueError: labels that are none, fewer than two classes, or one that the rows to train on haven't.
    """
    rows = next(iter(parts.values()))
    if columns.kind in (CLASSES, VALUES):
        return _of_one_label(parts, columns)
    if columns.kind == ANSWERS:
        return RowsTask(columns)
    if len(columns.labels) > 1:
        cells = {str(cell) for name in columns.labels for cell in known_labels(rows, name) if cell is not None}
        are_marks = {cell.strip().casefold() for cell in cells} <= MARKS.keys()
        return RowsTask(replace(columns, kind=LABELS if are_marks else VALUES), columns.labels)
    values = [value for value in rows[columns.labels[0]][:] if not is_missing(value)]
    names = class_names(rows.features[columns.labels[0]])
    lists = [entries_of(value) for value in values] if columns.are_words else lists_of(values)
    # a word may have no tag
    flat = [
        entry
        for row in lists
        for entry in row
        if columns.kind == LABELS or not (is_missing(entry) or str(entry) == str(IGNORED_LABEL))
    ]
    if columns.kind == LABELS:
        check_entries(flat, f"train_data: column {columns.labels[0]!r}")
    if columns.kind == TAGS and not columns.are_words:
        types = {str(span.kind) for span in map(read_span, flat) if span.kind is not None}
        names = names or [_OUTSIDE, *(f"{mark}-{kind}" for kind in sorted(types) for mark in "BI")]
    elif columns.kind == LABELS and not names and _are_cells_a_class(lists):
        # equally many numbers a row: one-hot, or values where some are fractions
        is_hot = {float(entry) for entry in flat} <= {0.0, 1.0}
        if is_hot or any(isinstance(entry, float) for entry in flat):
            columns, names = replace(columns, kind=LABELS if is_hot else VALUES), list(map(str, range(len(lists[0]))))
    distinct = {str(entry).strip() for entry in flat}
    if columns.are_words and not names and scheme_of([str(tag) for tag in row] for row in lists) == "IOB1":
        # read as BIO, in which every span begins with B-
        types = {tag[2:] for tag in distinct if tag[:2] in ("B-", "I-")}
        distinct |= {f"{mark}-{kind}" for kind in types for mark in "BI"}
    if not names and distinct and all(tag.isdecimal() and str(int(tag)) == tag for tag in distinct):
        # numbers without names may have gaps: all up to the largest are classes
        if (largest := max(map(int, distinct))) >= _MOST_CLASSES:
            raise ValueError(
                f"train_data: column {columns.labels[0]!r} has the class {largest:,}, and so as many before it; "
                "number the classes from 0, or write their names"
            )
        names = list(map(str, range(largest + 1)))
    names = names or sorted(distinct, key=lambda tag: (tag != _OUTSIDE, tag))
    if len(names) < 2:
        raise ValueError(f"train_data has the labels {short_repr(names)}; expected two or more")
    return RowsTask(columns, tuple(names))


def _are_cells_a_class(lists: Sequence[Sequence[Any]]) -> bool:
    """Whether rows have equally many numbers, one for each class, and not the numbers of their classes."""
    numbers = all(isinstance(entry, int | float) for row in lists for entry in row)
    return numbers and len({*map(len, lists)}) == 1 and len(lists[0]) > 1


def _of_one_label(parts: Mapping[str, Dataset], columns: Columns) -> RowsTask:
    """Values where all labels are numbers and some of them fractions; else classes."""
    column = columns.labels[0]
    labels = {argument: plain_labels(rows, column, argument) for argument, rows in parts.items()}
    types = {type(label) for found in labels.values() for label in found}
    if float in types and types <= {float, int}:
        return RowsTask(replace(columns, kind=VALUES))
    distinct = set(labels["train_data"])
    if len(distinct) < 2:
        raise ValueError(f"train_data has the one label {short_repr(*distinct)}; expected two or more")
    # names of a feature are the classes, in its order; rows of the other file may have its numbers
    numbered = next((names for rows in parts.values() if (names := class_names(rows.features[column]))), [])
    names = numbered or list(map(str, sorted(distinct)))
    known = {*names, *range(len(numbered))}
    for argument, found in labels.items():
        unknown = next((label for label in found if label not in known and str(label) not in known), None)
        if unknown is not None:
            other = "train_data" if argument == "eval_data" else "eval_data"
            raise ValueError(
                f"{argument} has the label {short_repr(unknown)}, which {other} never has "
                f"({_rows_with(unknown, found)}); correct or drop them"
            )
    for argument, found in labels.items():
        if isinstance(found[0], int) and "." in str(stored := parts[argument][column][0]):
            logger.warning("%s: %s has whole numbers such as %s; they are classes", argument, column, stored)
    return RowsTask(replace(columns, kind=CLASSES), tuple(names))


def report_names(task: RowsTask, train: ReadRows, held_out: ReadRows) -> None:
    """Log the names, classes with their training rows; warn of classes that a misspelt label may have made."""
    if task.kind != CLASSES:
        if task.names:
            logger.info("%s a row, %d: %s", task.kind, len(task.names), _listed(task.names))
        return
    labels, others = (label_numbers(part, task.config) for part in (train, held_out))
    # rows without a label are of no class
    counts, other_counts = (Counter(i for i in found if i != UNKNOWN_CLASS) for found in (labels, others))
    names = task.names
    logger.info("%d classes: %s", len(names), _listed(f"{name} {counts[i]:,}" for i, name in enumerate(names)))
    has_many = max(counts.values(), default=0) >= _MANY_ROWS
    doubtful = [
        f"{short_repr(name)} ({_rows_with(i, labels)} of train_data, {other_counts[i]:,} of eval_data)"
        for i, name in enumerate(names)
        if not other_counts[i] or (has_many and counts[i] < _FEW_ROWS)
    ]
    by_word: dict[str, list[str]] = {}
    for name in names:
        by_word.setdefault(name.strip().casefold(), []).append(name)
    if alike := [" and ".join(map(short_repr, some)) for some in by_word.values() if len(some) > 1]:
        logger.warning(
            "%s differ in case alone, and are classes of their own; write them alike if they are one",
            _listed(alike),
        )
    if doubtful:
        logger.warning(
            "few rows, or none of eval_data, have the class %s; correct or drop them, or add rows", _listed(doubtful)
        )


def _rows_with(label: Any, labels: Sequence[Any]) -> str:
    """How many rows have a label, and the number of the first, counted from 1."""
    count = labels.count(label)
    first = f", the first is row {labels.index(label) + 1:,}" if count else ""
    return f"{count:,} row{'s' * (count != 1)}{first}"


def _listed(parts: Iterable[str]) -> str:
    shown = list(parts)
    return ", ".join(shown[:_MOST_SHOWN] + ["…"] * (len(shown) > _MOST_SHOWN))
