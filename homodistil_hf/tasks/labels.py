"""Labels as people write them, by name, number or list → numbers, checked against the names of a model's classes."""

import itertools
import logging
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, cast

import numpy as np
from datasets import ClassLabel, Dataset, concatenate_datasets
from transformers import PreTrainedConfig

from ..data.delimited import parsed_cell
from ..data.masking import UNKNOWN_CLASS, UNKNOWN_VALUE
from ..files.messages import first_of, near_name, short_repr
from .columns import Columns, ReadRows, cells_of_several, class_names, is_missing, known_labels
from .kinds import CLASSES, LABELS, VALUES, has_default_names, names_of

logger = logging.getLogger(__name__)
_NO_NUMBERS = frozenset(("na", "n/a", "<na>", "nan", "null", "none", "nil", "inf", "-inf", "-", "?"))
"""Words, in lower case, that stand in a column of numbers where there is none."""
_WORDS_OF_BOOLEANS = {"true": 1, "false": 0}
_AS_JSON = 'a list in a file of words is JSON, such as ["a", "b"]: write it so, or keep the rows as parquet'
_MOST = float(np.finfo(np.float32).max)
_LARGEST_INTEGER = 1 << 24  # from here on float32 doesn't hold all whole numbers
_NUMBER = re.compile(r"[+-]?[\d.\s]*\d(,\d+)?|[+-]?\d*\.\d+")  # also with a comma for the point
_LIST = re.compile(r"[\[{]|\(\s*['\"\d].*,.*\)$|(set)?\(\)$", re.DOTALL)
_CHOICES = ["choices"]  # of Label Studio
_SEPARATORS = re.compile(r"[,;|]")
_POINT = re.compile(r"(?<=\d)\.0*$")  # of whole numbers, as pandas writes a column with empty cells


def label_numbers(part: ReadRows, config: PreTrainedConfig) -> list[Any]:
    """Labels of rows of classes, several labels or values, as the model's loss takes them.

    Args:
        part: with columns of labels, or without any.
        config: of the model.

    Returns:
        A class, or a list of numbers, a row; `UNKNOWN_CLASS` and `UNKNOWN_VALUE` where there is no label.

    Raises:
        ValueError: a label that is none of the model's, or a number that is none.
    """
    rows, columns, argument, _ = part
    unknown = UNKNOWN_CLASS if columns.kind == CLASSES else [UNKNOWN_VALUE] * config.num_labels
    if not columns.labels:
        return [unknown] * len(rows)
    where = f"{argument}: column {columns.labels[0]!r}"
    if len(columns.labels) > 1:
        if len(columns.labels) != config.num_labels or columns.kind == CLASSES:
            raise ValueError(
                f"label_column={short_repr(','.join(columns.labels))} are {len(columns.labels)}, the model has "
                f"{config.num_labels} labels; name one column, or one for each of {', '.join(names_of(config))}"
            )
        # a row of several columns is known where all its cells are
        cells = zip(*cells_of_several(part), strict=True)
        values: list[Any] = [None if None in row else list(row) for row in cells]
    else:
        values = known_labels(rows, columns.labels[0])
    # read all known labels at once, then put them back at their places
    known = [value for value in values if value is not None]
    own_names = class_names(rows.features[columns.labels[0]])
    numbers: list[Any]
    if columns.kind == VALUES:
        numbers = [[finite_number(part) for part in as_list(value)] for value in known]
        for value, row in zip(known, numbers, strict=True):
            if len(row) != config.num_labels or None in row:
                expected = "a finite number" if config.num_labels == 1 else f"{config.num_labels} finite numbers"
                remedy = "correct or drop it"
                if isinstance(value, str) and "," in value and _NUMBER.fullmatch(value.strip()):
                    remedy = "write numbers with a point and without separators, as 1234.5"
                raise ValueError(f"{where} has the label {short_repr(value)}; expected {expected} a row: {remedy}")
            if large := [number for number in row if abs(number) >= _LARGEST_INTEGER]:
                raise ValueError(
                    f"{where} has the label {large[0]:.17g}; from 2**24 on float32 skips whole numbers: divide the "
                    "column, or subtract its mean"
                )
    elif columns.kind == LABELS:
        numbers = _several(known, columns, config, own_names, where)
    elif lists := [value for value in known if isinstance(value, list | dict)]:
        raise ValueError(
            f"{where} holds {short_repr(lists[0])}; expected one class a row: for several, set problem_type of the "
            "model's config.json to multi_label_classification"
        )
    else:
        numbers = class_numbers(known, config, own_names, where)
    found = iter(numbers)
    return [unknown if value is None else next(found) for value in values]


def read_alike(parts: Sequence[ReadRows], config: PreTrainedConfig) -> list[ReadRows]:
    """Rows of a run whose labels are those of its model, found by one rule for all parts.

    Whether numbers are names, and what an empty cell says, shows in all labels of a run, and may not in a few rows.

    Args:
        parts: all of one kind; their columns of labels have one feature each, or parts are left as they are.
        config: of the model.

    Returns:
        The parts; classes as a feature of the model's names, several labels a row as shares in their first column.

    Raises:
        ValueError: a label that is none of the model's.
    """
    kind, labels, names = parts[0].columns.kind, parts[0].columns.labels, names_of(config)
    features = [[part.rows.features[name] for name in labels if name in part.rows.column_names] for part in parts]
    are_alike = all(one == features[0] for one in features)
    if kind not in (CLASSES, LABELS) or not labels or not are_alike or len({*names}) < len(names):
        return list(parts)
    table = concatenate_datasets([part.rows.select_columns(list(labels)) for part in parts])
    try:
        arguments = " and ".join(part.argument for part in parts)
        numbers = iter(label_numbers(ReadRows(table, parts[0].columns, arguments), config))
    except ValueError:  # names in one part and numbers in another can be read alone
        for part in parts:
            label_numbers(part, config)  # refuses a wrong label by its own name
        return list(parts)
    found = []
    for rows, columns, argument, _ in parts:
        cells = list(itertools.islice(numbers, len(rows)))
        feature = None
        if kind == CLASSES:
            feature, cells = ClassLabel(names=names), [max(cell, -1) for cell in cells]  # -1 stands for no label
        else:
            cells = [None if UNKNOWN_VALUE in cell else cell for cell in cells]
        read = rows.remove_columns(list(labels)).add_column(labels[0], cells, feature=feature)
        found.append(ReadRows(read, replace(columns, labels=labels[:1]), argument))
    return found


def class_numbers(values: Sequence[Any], config: PreTrainedConfig, own_names: Sequence[str], where: str) -> list[int]:
    """Classes by name or number → the model's numbers.

    Args:
        values: of rows that have a label. All of them go by name, or all by number.
        config: of the model.
        own_names: of a feature that numbers the values.
        where: begins messages.

    Raises:
        ValueError: a class that the model hasn't.
    """
    own_numbers = range(len(own_names)) if own_names else None
    for value in values:
        is_none_of_its_own = own_numbers is not None and isinstance(value, int) and value not in own_numbers
        if isinstance(value, list | dict) or is_none_of_its_own:
            raise ValueError(
                f"{where} has the label {short_repr(value)}, which is no class: correct or drop such rows"
            )
    are_named = bool(own_names) and not (has_default_names(config) and len(own_names) <= config.num_labels)
    if are_named:
        values = [own_names[value] if isinstance(value, int) else value for value in values]
        # names such as "1" are the model's numbers where 0 is among them, in the order that `datasets` gives them
        numbers = [*map(_whole, own_names)]
        are_numbers = None not in numbers and 0 in numbers and own_names == sorted({*own_names})
        are_named = not are_numbers and numbers != [*range(len(own_names))]
    exact = {name: number for number, name in enumerate(names_of(config))}
    # names that differ in case alone, such as US and us, are themselves only
    counts = Counter(name.strip().casefold() for name in exact)
    names = {word: number for name, number in exact.items() if counts[word := name.strip().casefold()] == 1}
    found: dict[Hashable, None] = dict.fromkeys(values)
    by_name: dict[Hashable, int | None] = {}
    for value in found:
        # a name may be written otherwise: in capitals, or `1.0` for 1
        word = str(value).strip().casefold()
        otherwise = (names[way] for way in (word, _POINT.sub("", word), str(_whole(value))) if way in names)
        by_name[value] = exact.get(str(value), exact.get(str(value).strip(), next(otherwise, None)))
    by_number = {value: None if are_named else _whole(value) for value in found}
    if None not in by_name.values():
        if by_number != by_name and all(number in range(config.num_labels) for number in by_number.values()):
            logger.warning(
                "%s: labels such as %s name one class and number another; they are read as names here, and as numbers "
                "where one of them is no name; write words in place of numbers",
                where,
                short_repr(next(value for value in found if by_number[value] != by_name[value])),
            )
        return [cast(int, by_name[value]) for value in values]
    wrong = [value for value, number in by_number.items() if number is None or not 0 <= number < config.num_labels]
    if wrong:
        # Among names, what is no name is wrong.
        unknown = [value for value, number in by_name.items() if number is None]
        value = (wrong if len(unknown) == len(found) else unknown)[0]
        count = sum(each == value for each in values)
        rows = f"{count:,} row{'s' * (count != 1)}"
        raise ValueError(f"{where} has the label {short_repr(value)} ({rows}); {_remedy(value, by_number, config)}")
    used = {cast(int, number) for number in by_number.values()}
    if not own_names and len(used) > 1 and min(used) == 1:
        logger.warning(
            "%s: no row has the class 0 (%s), and 1 is %s; where labels count from 1, subtract 1",
            *(where, *map(repr, names_of(config)[:2])),
        )
    return [cast(int, by_number[value]) for value in values]


def _whole(value: Any) -> int | None:
    """A number of a class, however it is stored; None for anything else."""
    if isinstance(value, str):
        word = value.strip().casefold()
        number = _POINT.sub("", word)
        return _WORDS_OF_BOOLEANS.get(
            word, int(number) if re.fullmatch(r"-?(0|[1-9]\d{0,8})", number, re.ASCII) else None
        )
    if isinstance(value, int | float | Decimal) and value % 1 == 0:
        return int(value)
    return None


def _remedy(value: Any, numbers: dict[Any, int | None], config: PreTrainedConfig) -> str:
    names, most = names_of(config), config.num_labels
    if isinstance(value, str) and _is_list(value):  # as NumPy writes it: ['a' 'b']
        return _AS_JSON
    whole = [number for number in numbers.values() if number is not None]
    if len(whole) == len(numbers):
        counts_from_1 = min(whole) == 1 and max(whole) == most
        remedy = "they count from 1: subtract 1" if counts_from_1 else "correct or drop such rows"
        return f"the model has the classes 0 … {most - 1}; {remedy}"
    if has_default_names(config):
        return (
            f"the model's classes have no names, only numbers 0 … {most - 1}: number the rows, or set id2label and "
            "label2id in its config.json"
        )
    near = "" if (name := near_name(value, names)) is None else f"; nearest valid: {name!r}"
    return (
        f"the model's classes are {', '.join(names[:10])}{', …' if most > 10 else ''}"
        f"{near}: correct or drop such rows, or take a teacher of these classes"
    )


def finite_number(value: Any) -> float | None:
    """A number that float32 holds, also one that is written as a word; None for anything else."""
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        return None
    return number if abs(number) <= _MOST else None


def _several(
    values: Sequence[Any], columns: Columns, config: PreTrainedConfig, own_names: Sequence[str], where: str
) -> list[Any]:
    """Shares of each class, from one-hot rows of as many numbers as classes, or from lists of names or numbers."""
    num_labels = config.num_labels
    lists = lists_of(values)
    numbers = [[finite_number(part) for part in parts] for parts in lists]
    are_shares = (all(part is not None and 0 <= part <= 1 for part in parts) for parts in numbers)
    # a share of each class in every row; a feature with names numbers classes
    are_numbered = len(columns.labels) == 1 and bool(own_names)
    if not are_numbered and all(len(parts) == num_labels for parts in numbers) and all(are_shares):
        return numbers
    if len(columns.labels) > 1:
        raise ValueError(f"{where} and others hold no 0 or 1 in all rows; correct or drop such rows")
    # rows of zeros and ones, but not one a class; numbers of classes would not repeat in a row
    lengths = {len(parts) for parts in lists}
    is_repeated = any(len(set(parts)) < len(parts) for parts in numbers)
    if len(lengths) == 1 and is_repeated and all({*parts} <= {0.0, 1.0} for parts in numbers):
        raise ValueError(
            f"{where} has rows of {lengths.pop()} zeros and ones, the model has {num_labels} labels: "
            f"{first_of(names_of(config))}; expected a number for each"
        )
    # else lists of names or numbers: look all up at once, then deal them out to their rows
    flat = [part for parts in lists for part in parts]
    classes = iter(class_numbers(flat, config, own_names, where))
    chosen = [{next(classes) for _ in parts} for parts in lists]
    return [[float(number in row) for number in range(num_labels)] for row in chosen]


def plain_labels(rows: Dataset, column: str, argument: str) -> list[Any]:
    """Labels that no model has names for yet: booleans, whole numbers or fractions where all are, else names.

    Raises:
        ValueError: a row without a label, a list, or words such as `NA` and infinite numbers beside numbers.
    """
    labels = known_labels(rows, column)
    if None in labels:
        raise ValueError(
            f"{argument} has rows without {column!r}, the first is row {labels.index(None) + 1:,}; drop them"
        )
    if names := class_names(rows.features[column]):
        return [names[label] for label in labels]
    if any(isinstance(label, list | dict) for label in labels):
        raise ValueError(f"{argument} has lists in {column!r}; expected one label a row")
    words = {label: str(label).strip().casefold() for label in labels}
    if {*words.values()} <= _WORDS_OF_BOOLEANS.keys():
        return [words[label] == "true" for label in labels]
    numbers: dict[Any, Any] = {label: _finite(label) for label in words}
    others = [label for label, number in numbers.items() if number is None]
    if len(others) < len(numbers) and others and {words[label] for label in others} <= _NO_NUMBERS:
        raise ValueError(f"{argument} has rows with {column}={short_repr(others[0])} beside numbers; drop them")
    are_numbers = all(isinstance(label, str) and _NUMBER.fullmatch(words[label]) for label in others)
    if are_numbers and (with_comma := next((label for label in others if "," in label), None)):
        raise ValueError(
            f"{argument} has rows with {column}={short_repr(with_comma)}; write numbers with a point and without "
            "separators, as 1234.5, or several labels as lists, as [1, 2]"
        )
    if others:
        return [label.strip() if isinstance(label, str) else label for label in labels]
    kind = int if all(number % 1 == 0 for number in numbers.values()) else float
    return [kind(numbers[label]) for label in labels]


def _finite(label: Any) -> int | float | None:
    """A finite number, whole ones exact; `1_000` and `001` are names, which Python reads as numbers."""
    if "_" in str(label) or re.match(r"\s*[+-]?0\d", str(label)):
        return None
    for kind in (int, float):
        try:
            number = kind(label)
            if kind is float or isinstance(label, str) or number == label:
                return number if math.isfinite(number) else None
        except (OverflowError, TypeError, ValueError):
            continue
    return None


def are_several(cells: Sequence[Any]) -> bool:
    """Whether cells hold several labels each: lists, however they are written, or words whose parts repeat.

    `a`, `b`, `a,b` are two labels, as no more parts are there than cells; `yes, often` and `no, never` are classes.
    """
    distinct = {cell for cell in cells if isinstance(cell, str)}
    if any(map(_is_list, distinct)) or any(_is_list(cell) for cell in cells if not isinstance(cell, str)):
        return True
    if all(_NUMBER.fullmatch(cell.strip()) for cell in distinct):
        return False
    lists = [as_list(cell) for cell in distinct]
    parts = [part for one in lists for part in one]
    return max(map(len, lists), default=0) > 1 and len({*parts}) < len(parts) and len({*parts}) <= len(lists)


def lists_of(cells: Sequence[Any]) -> list[list[Any]]:
    """Entries of each cell; words beside lists are one entry, whatever separators they have."""
    has_lists = any(map(_is_list, cells))
    return [[cell] if has_lists and isinstance(cell, str) and not _is_list(cell) else as_list(cell) for cell in cells]


def _is_list(cell: Any) -> bool:
    if isinstance(cell, str):
        return bool(_LIST.match(cell.strip()))
    return isinstance(cell, list) or (isinstance(cell, Mapping) and [*cell] == _CHOICES)


def check_entries(entries: Iterable[Any], where: str) -> None:
    """Refuse, by a ValueError, entries of lists that are no labels: nothing, objects, or lists that can't be read."""
    for entry in entries:
        if is_missing(entry):
            raise ValueError(f"{where} has lists with {short_repr(entry)} among their labels; leave it out of them")
        if isinstance(entry, list | dict) or (isinstance(entry, str) and _is_list(entry)):
            raise ValueError(f"{where} has the label {short_repr(entry)}, which is no class; {_AS_JSON}")


def as_list(value: Any) -> list[Any]:
    """Entries of a list, of a list written as JSON or by Python, or of words with separators between them."""
    if isinstance(value, Mapping) and [*value] == _CHOICES:
        value = value[_CHOICES[0]]
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        return [value]
    if _is_list(value):
        parts = parsed_cell(value)
        return as_list(parts) if isinstance(parts, list | dict) else [value]
    return [part.strip() for part in _SEPARATORS.split(value) if part.strip()]
