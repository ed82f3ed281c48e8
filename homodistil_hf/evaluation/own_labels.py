"""Labels of rows that no model has names for yet: one class of several, or a value, a text.

Words that are numbers are numbers, fractions are values of a regression, all else are classes. own_task.py trains on
them, own_kinds.py has rows of other kinds.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

from datasets import ClassLabel, Dataset
from transformers import PreTrainedModel

from ..files.messages import short_repr
from ..tasks.columns import Columns, class_names, known_labels
from ..tasks.encoding import LEAST_ROWS, check_rows
from ..tasks.kinds import CLASSES, VALUES
from ..tasks.reading import check_columns, load_rows
from .own_kinds import rows_aside

logger = logging.getLogger(__name__)

_NAME_COLUMNS = "name text_columns and label_column"
_MOST_CLASSES = 10  # that a line shows
_FEW_ROWS, _MANY_ROWS = 3, 100
_NO_NUMBERS = frozenset(("na", "n/a", "<na>", "nan", "null", "none", "nil", "inf", "-inf", "-", "?"))
"""Words, in lower case, that stand in a column of numbers where there is none."""


def rows_of(settings: Any, train: Dataset | None = None) -> tuple[Dataset, Dataset, list[str]]:
    """Training and evaluation rows, with numbers as `label`, and the names of the classes; none for a regression.

    Names of a `ClassLabel` column are the classes, in its order, and in the rows' features again.

    Args:
        settings: an `OwnTaskSettings`, which names files and columns.
        train: rows of `train_data`, if they are read already.

    Raises:
        ValueError: rows that can't be read, or labels that are none.
        OSError: a file can't be read.
    """
    parts = _parts(settings, load_rows([settings.train_data]) if train is None else train)
    column = settings.label_column
    labels = {argument: _labels(part, column, argument) for argument, part in parts.items()}
    known = next((own for part in parts.values() if (own := class_names(part.features[column]))), None)
    names: list[str] = []
    if _are_values(labels):
        numbers: dict[str, list[Any]] = {argument: list(map(float, found)) for argument, found in labels.items()}
    else:
        if len(found := set(labels["train_data"])) < 2:
            raise ValueError(f"train_data has the one label {short_repr(*found)}; expected two or more")
        names = known or list(map(str, sorted(found)))
        numbers = {argument: _class_numbers(found, names, known, argument) for argument, found in labels.items()}
        for argument, part in parts.items():
            if isinstance(labels[argument][0], int) and "." in str(stored := part[column][0]):
                logger.warning("%s: %s has whole numbers such as %s; they are classes", argument, column, stored)
    columns = list(settings.text_columns)
    train, dev = (part.select_columns(columns).add_column("label", numbers[name]) for name, part in parts.items())
    if known is not None:
        train, dev = (part.cast_column("label", ClassLabel(names=names)) for part in (train, dev))
    if names:
        _report_classes(names, train["label"][:], dev["label"][:])
    return train, dev, names


def _parts(settings: Any, train: Dataset) -> dict[str, Dataset]:
    """Rows to train on and rows to evaluate on, which are kept aside where no others are named."""
    parts = {"train_data": train}
    if settings.eval_data:
        parts["eval_data"] = load_rows([settings.eval_data], split="validation", argument="eval_data")
    columns = Columns(CLASSES, settings.text_columns, (settings.label_column,))
    for argument, rows in parts.items():
        source = f"{argument}={getattr(settings, argument)!r}"
        check_columns(rows.column_names, (*columns.texts, *columns.labels), source, remedy=_NAME_COLUMNS)
        check_rows(rows, columns, argument, least=LEAST_ROWS)
    if not settings.eval_data:
        is_value = _are_values({"train_data": _labels(train, settings.label_column, "train_data")})
        aside = rows_aside(train, replace(columns, kind=VALUES if is_value else CLASSES))
        parts = dict(zip(("train_data", "eval_data"), aside, strict=True))
    return parts


def _report_classes(names: list[str], labels: list[int], dev_labels: list[int]) -> None:
    """Log the classes with their training rows; warn of those that a misspelt label may have made."""
    counts, dev_counts = Counter(labels), Counter(dev_labels)
    logger.info("%d classes: %s", len(names), _listed(f"{name} {counts[i]:,}" for i, name in enumerate(names)))
    has_many = max(counts.values()) >= _MANY_ROWS
    doubtful = [
        f"{short_repr(name)} ({_rows_at(counts[i], labels, i)} of train_data, {dev_counts[i]:,} of eval_data)"
        for i, name in enumerate(names)
        if not dev_counts[i] or (has_many and counts[i] < _FEW_ROWS)
    ]
    if doubtful:
        logger.warning(
            "few rows, or none of eval_data, have the class %s; correct or drop them, or add rows", _listed(doubtful)
        )


def _rows_at(count: int, labels: Sequence[Any], label: Any) -> str:
    """How many rows have a label, and the number of the first, counted from 1."""
    first = f", the first is row {labels.index(label) + 1:,}" if count else ""
    return f"{count:,} row{'s' * (count != 1)}{first}"


def _listed(parts: Iterable[str]) -> str:
    shown = list(parts)
    return ", ".join(shown[:_MOST_CLASSES] + ["…"] * (len(shown) > _MOST_CLASSES))


def are_numbered(rows: Dataset) -> bool:
    """Whether a feature numbers the classes of rows of [`rows_of`], so that they may go by their numbers as well."""
    return isinstance(rows.features["label"], ClassLabel)


def _labels(rows: Dataset, column: str, argument: str) -> list[Any]:
    """Labels as names, booleans, whole numbers or fractions; whole numbers are `int`, however they are stored."""
    labels = known_labels(rows, column)
    if None in labels:
        first = labels.index(None) + 1
        raise ValueError(f"{argument} has rows without {column!r}, the first is row {first:,}; drop them")
    if names := class_names(rows.features[column]):
        return [names[label] for label in labels]
    if any(isinstance(label, list | dict) for label in labels):
        raise ValueError(f"{argument} has lists in {column!r}; expected one label a row")
    if all(isinstance(label, str) for label in labels):
        labels = _parsed(labels, f"{argument} has rows with {column}")
    if not all(isinstance(label, float | Decimal) for label in labels):
        return labels
    if broken := [label for label in labels if not math.isfinite(label)]:
        raise ValueError(f"{argument} has rows with {column}={broken[0]}; drop them")
    return list(map(float if any(label % 1 for label in labels) else int, labels))


def _parsed(words: list[str], where: str) -> list[Any]:
    """Labels that are words: booleans or numbers where all of them are; else names."""
    if {word.lower() for word in words} <= {"true", "false"}:
        return [word.lower() == "true" for word in words]
    kinds = {kind for word in set(words) if (kind := _kind(word)) is not str}
    others = [word for word in words if _kind(word) is str]
    if kinds and others and {word.lower() for word in others} <= _NO_NUMBERS:
        raise ValueError(f"{where}={others[0]!r} beside numbers; drop them")
    if others or not kinds:
        return words
    return list(map(float if float in kinds else int, words))


def _kind(word: str) -> type:
    """The type of a label that is written as a word: int, float or str."""
    for kind in (int, float):
        try:
            # Python reads 1_000 as a number, but a label of that form is a name
            return kind if math.isfinite(kind(word)) and "_" not in word else str
        except (ValueError, OverflowError):
            continue
    return str


def _are_values(labels: Mapping[str, list[Any]]) -> bool:
    """Whether all labels are numbers, and some of them fractions: a regression's."""
    kinds = {type(label) for found in labels.values() for label in found}
    return float in kinds and kinds <= {float, int}


def _class_numbers(labels: list[Any], names: list[str], known: list[str] | None, argument: str) -> list[int]:
    numbers: dict[Any, int] = {name: number for number, name in enumerate(names)}
    if known is not None:  # rows of the other file may have its numbers without its names
        numbers = dict(enumerate(range(len(names)))) | numbers
    found = [numbers.get(label, numbers.get(str(label))) for label in labels]
    if None in found:
        unknown = labels[found.index(None)]
        other = "train_data" if argument == "eval_data" else "eval_data"
        raise ValueError(
            f"{argument} has the label {short_repr(unknown)}, which {other} never has "
            f"({_rows_at(labels.count(unknown), labels, unknown)}); correct or drop them"
        )
    return [number for number in found if number is not None]


def check_classes_of(model: PreTrainedModel, names: list[str], *, argument: str, are_numbered: bool = False) -> None:
    """Refuse a model that was fine-tuned for other labels than the `names` of [`rows_of`].

    Args:
        model: a sequence classifier.
        names: of the classes; none for a regression.
        argument: name of the model in messages.
        are_numbered: whether the classes may go by their numbers in the model.
    """
    known = [model.config.id2label[index] for index in range(model.config.num_labels)]
    # transformers names classes LABEL_0 … by default; they fit rows whose labels are these numbers.
    allowed = [names, [f"LABEL_{name}" for name in names or ["0"]]]
    if are_numbered:
        numbers = list(map(str, range(len(names))))
        allowed += [numbers, [f"LABEL_{number}" for number in numbers]]
    if known not in allowed:
        raise ValueError(
            f"{argument} has the labels {short_repr(known)}, the rows {short_repr(names)}; fine-tune it on these rows"
        )
    task = "single_label_classification" if names else "regression"
    if (given := model.config.problem_type) not in (None, task):
        raise ValueError(
            f"{argument} has problem_type={given!r}, the rows are for {task!r}; fine-tune it on these rows"
        )
