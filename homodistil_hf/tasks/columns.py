"""The columns that rows of a kind are read from: found by their usual names, or as the user names them."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from datasets import ClassLabel, Dataset, Value
from transformers import PreTrainedConfig

from ..data.delimited import parsed_cell
from ..data.masking import IGNORED_LABEL
from ..data.read_line import columns_words
from ..data.triplets import by_lower_name, column_types
from ..files.messages import first_of, join_some, nearest_valid, short_repr
from .kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES, names_of

RANKED_PAIRS = (
    *(("query", "passage"), ("query", "document"), ("query", "text"), ("question", "passage")),
    ("anchor", "positive"),
)
"""Pairs of columns that search engines score."""
_PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence")),
    *(("text1", "text2"), ("text_a", "text_b"), ("text", "text_pair"), ("sentence_a", "sentence_b")),
    *RANKED_PAIRS,
    *(("question", "context"), ("question", "answer"), ("first", "second")),
)
_TEXTS = ("text", "sentence", "content", "review", "document", "tweet", "message", "comment", "query", "question")
_WORDS = ("tokens", "words")
CLASS_COLUMNS = (
    *("label", "labels", "class", "category", "target", "label_name", "gold_label", "sentiment", "emotion"),
    *("intent", "topic", "rating", "stars", "y", "annotation", "annotations"),
)
_VALUE_COLUMNS = (
    *("label", "labels", "score", "scores", "similarity", "similarity_score", "relevance", "target", "value"),
    *("rating", "y"),
)
_ANNOTATIONS = ("annotations", "annotation")
SPAN_COLUMNS = ("spans", "entities", "label", "labels", "ner_tags", "tags", *_ANNOTATIONS)
TAG_COLUMNS = (
    *("ner_tags", "tags", "labels", "label", "pos_tags", "upos", "chunk_tags", "spans", "entities"),
    *_ANNOTATIONS,
)
_LABEL_COLUMNS: dict[str, Sequence[str]] = {
    CLASSES: CLASS_COLUMNS,
    LABELS: CLASS_COLUMNS,
    VALUES: _VALUE_COLUMNS,
    TAGS: TAG_COLUMNS,
    ANSWERS: ("answers",),
}
LABEL_COLUMNS = frozenset((*TAG_COLUMNS, *(name for names in _LABEL_COLUMNS.values() for name in names)))
"""Usual names of columns with labels of any kind."""
MARKS = dict.fromkeys(("x", "✓", "1", "1.0", "true", "yes"), 1) | dict.fromkeys(("0", "0.0", "false", "no"), 0)
"""Words, in lower case, for a label that a row has, and for one that it hasn't."""
_STRINGS = ("string", "large_string", "string_view")
HELD_OUT_PART = "the held-out part of "
"""Begins the name in messages of rows that were kept aside; of few labels these may have none."""
LEAST_ROWS = 8
_LOOKED_AT = 100  # rows, for what a column holds


@dataclass(frozen=True)
class Columns:
    """Columns that rows of a kind are read from.

    Args:
        kind: one of those in kinds.py.
        texts: one text, two of a pair, words of a text, or question and context.
        labels: one column, or one for each class or value; none for rows without labels.
    """

    kind: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()

    def describe(self) -> str:
        """Name them in words."""
        names = " and ".join(map(repr, self.texts))
        texts = f"{'words' if self.are_words else 'text'}{'s' * (len(self.texts) > 1)} in {names}"
        if not self.labels:
            return f"{texts}, no labels"
        return f"{texts}, labels in {first_of(map(repr, self.labels))}"

    @property
    def are_words(self) -> bool:
        """Whether a text comes in words, each with its tag."""
        return self.kind == TAGS and is_of_words(self.texts)


class ReadRows(NamedTuple):
    """Rows to train or evaluate on, before they are tokenized: with their columns, and their name in messages.

    `numbers` are those of the rows in their source, from 1; None where all of its rows are there.
    """

    rows: Dataset
    columns: Columns
    argument: str = "train_data"
    numbers: Sequence[int] | None = None

    def row(self, place: int) -> str:
        """What messages call the row at a place, from 0."""
        number = place + 1 if self.numbers is None else self.numbers[place]
        return f"row {number:,}"


def found_rows(rows: Dataset, config: PreTrainedConfig, kind: str, *, least: int = 1, **named: Any) -> ReadRows:
    """Find the columns of rows, and check the rows; arguments and errors as [`find_columns`] and [`check_rows`]."""
    part = ReadRows(rows, find_columns(rows, config, kind, **named), named.get("argument", "train_data"))
    check_rows(part, least=least)
    return part


def what_is_read(parts: Sequence[ReadRows]) -> dict[str, Any]:
    """What [`read_line`] says of parts: the columns of the first, and the rows of all with labels."""
    rows, columns, *_ = parts[0]
    words = columns_words((*columns.texts, *columns.labels), rows.column_names)
    return {"columns": words, "num_labelled": num_labelled(parts)}


def described_rows(
    kind: str, train: Sequence[ReadRows], held_out: Sequence[ReadRows], max_length: int
) -> dict[str, Any]:
    """What was understood of the rows of a run, for its results; all sources have the columns of the first."""
    labelled = num_labelled(held_out)
    return {
        "kind": kind,
        "text_columns": list(train[0].columns.texts),
        "label_columns": list(train[0].columns.labels),
        "max_seq_length": max_length,
        "num_train_rows": sum(len(part.rows) for part in train),
        "num_eval_rows": sum(len(part.rows) for part in held_out),
        # rows that metrics of labels are of
        **({} if labelled is None else {"num_labelled_eval_rows": labelled}),
    }


def find_columns(
    rows: Dataset,
    config: PreTrainedConfig,
    kind: str,
    *,
    text_columns: Sequence[str] = (),
    label_column: str | None = None,
    argument: str = "train_data",
) -> Columns:
    """Find the columns of rows for a model, by their usual names where none are given.

    Args:
        rows: with all their columns.
        config: of the model.
        kind: of the model.
        text_columns: names of one column, of two for pairs, or of question and context.
        label_column: name of the column with labels, or of several with commas between them, a value or class each.
        argument: the user's name for the rows in messages.

    Returns:
        [`Columns`]; without labels where no column is found.

    Raises:
        ValueError: a column that isn't there, or none that holds texts.
    """
    for name in text_columns:
        check_named(rows, name, argument, "text_columns")
    labels = listed_columns(label_column)
    for name in labels:
        check_named(rows, name, argument, "label_column")
    if len(set(text_columns)) < len(text_columns):
        raise ValueError(f"text_columns={','.join(text_columns)!r} have one twice; name one, or two of a pair")
    texts = tuple(text_columns) or _texts(rows, kind, labels)
    shown = first_of(f"{name} ({kind})" for name, kind in column_types(rows.features).items())
    if kind == ANSWERS and len(texts) != 2:
        raise ValueError(
            f"{argument} has the columns {shown}; expected question and context, and answers (lists text and "
            "answer_start) where they are known: rename them, or name two text_columns"
        )
    if not texts or len(texts) > 2 or (kind == TAGS and len(texts) != 1):
        usual, other = ("tokens", "a text with spans") if kind == TAGS else ("text", "two of a pair")
        raise ValueError(
            f"{argument} has the columns {shown}; which of them hold {usual}, or {other}, isn't clear: name "
            f"text_columns, or rename the column to {usual}"
        )
    if label_column is not None:
        for name in labels:
            if name in texts:
                raise ValueError(f"label_column={name!r} holds the text; name the column with labels, or leave it out")
        return Columns(kind, texts, _in_order_of_model(labels, config, argument))
    found = _labels(rows, config, kind, texts, argument)
    has_labels = any(value not in (None, []) for name in found for value in known_labels(rows, name))
    return Columns(kind, texts, found if has_labels else ())


def check_rows(part: ReadRows, *, least: int = 1) -> None:
    """Refuse, by a ValueError, fewer than `least` rows, and rows without a text."""
    rows, columns, argument, _ = part
    if len(rows) < least:
        raise ValueError(f"{argument} has {len(rows)} rows; expected {least} or more")
    for name in columns.texts:
        if not is_string(rows.features[name]) and not columns.are_words:
            raise ValueError(
                f"{argument}: column {name!r} holds {column_types(rows.features)[name]}; expected a text a row: name "
                "other text_columns, or make them texts"
            )
        values = rows[name][:]
        # a text may have no words; a list of words may be empty, or lack some
        empty = [
            place
            for place, value in enumerate(values, 1)
            if not (value.strip() if isinstance(value, str) else value)
            or (columns.are_words and not isinstance(value, str) and None in [*value])
        ]
        if empty:
            rows_of = f"{len(empty):,} row{'s' * (len(empty) != 1)}"
            raise ValueError(f"{argument} has {rows_of} without {name!r}, the first is row {empty[0]:,}; drop them")


def known_labels(rows: Dataset, column: str) -> list[Any]:
    """Values of a column, None for missing ones; a feature's numbers below 0 stand for none."""
    has_names = bool(class_names(rows.features[column]))
    return [
        None if is_missing(value) or (has_names and isinstance(value, int) and value < 0) else value
        for value in rows[column][:]
    ]


def cells_of_several(part: ReadRows) -> list[list[Any]]:
    """Labels of several columns, a list a column; of marks beside empty cells, 1 and 0.

    A column of marks alone, without a 0, is 0 where it is empty; one without a mark, where no other has a 0.
    """
    cells = [known_labels(part.rows, name) for name in part.columns.labels]
    if part.columns.kind != LABELS:
        return cells
    # numbers stay as they are: there are shares, too
    for column, name in zip(cells, part.columns.labels, strict=True):
        names = class_names(part.rows.features[name])
        if {one.strip().casefold() for one in names} <= MARKS.keys():  # of a feature not its numbers, but their names
            column[:] = [names[cell] if names and isinstance(cell, int) else cell for cell in column]
    cells = [[MARKS.get(str(cell).strip().casefold(), cell) for cell in column] for column in cells]
    are_all_marks = any(1 in column for column in cells) and not any(0 in column for column in cells)
    return [
        [cell or 0 for cell in column]
        if all(cell in (None, 1) for cell in column) and (1 in column or are_all_marks)
        else column
        for column in cells
    ]


def num_labelled(parts: Iterable[ReadRows]) -> int | None:
    """Count the rows whose labels are all known; None for rows without columns of labels.

    Raises:
        ValueError: labels are announced, and no row of a part has one, but for rows that were kept aside.
    """
    counts = []
    for part in parts:
        rows, columns, argument, _ = part
        if columns.labels:
            cells = list(zip(*cells_of_several(part), strict=True))
            counts.append(sum(all(_counts(cell, columns) for cell in row) for row in cells))
            has_none = not counts[-1] or all(cell == [] for row in cells for cell in row)
            if has_none and not argument.startswith(HELD_OUT_PART):
                raise ValueError(
                    f"{argument} has no label in {join_some(map(repr, columns.labels))}, in none of {len(rows):,} "
                    "rows; name another label_column, or leave it out: row 1 has "
                    f"{', '.join(short_repr(rows[0][name]) for name in columns.labels)}"
                )
    return sum(counts) if counts else None


def refuse_missing_labels(part: ReadRows) -> None:
    """Refuse, by a ValueError, rows without one of their labels."""
    rows = list(zip(*cells_of_several(part), strict=True))
    if missing := [place for place, row in enumerate(rows, 1) if None in row]:
        names = first_of(map(repr, part.columns.labels))
        raise ValueError(
            f"{part.argument} has {len(missing):,} of {len(rows):,} rows without a label in {names}, the first is "
            f"row {missing[0]:,}; drop them, or label them"
        )


def _counts(cell: Any, columns: Columns) -> bool:
    """Whether a cell holds a label; beside words, one that isn't ignored."""
    if not columns.are_words or cell is None:
        return cell is not None
    entries = parsed_cell(cell) if isinstance(cell, str) else cell
    return not isinstance(entries, list) or any(not is_missing(tag) and tag != IGNORED_LABEL for tag in entries)


def empty_labels(rows: Dataset, columns: Columns) -> Columns | None:
    """The columns with one of a usual name for labels, in which there may be none; None without such a column."""
    labels = tuple(name for name in rows.column_names if name.lower() in LABEL_COLUMNS and name not in columns.texts)
    return replace(columns, labels=labels[:1]) if labels else None


def is_missing(value: Any) -> bool:
    """Whether a cell holds no label: null, NaN, or nothing but blanks in a file of words."""
    is_blank = isinstance(value, str) and not value.strip()
    return value is None or is_blank or (isinstance(value, float) and math.isnan(value))


def listed_columns(names: str | None) -> tuple[str, ...]:
    """Names of columns with commas between them.

    Example:
    ```python
    >>> listed_columns("sentence1, sentence2"), listed_columns(None)
    (('sentence1', 'sentence2'), ())

    ```
    """
    return () if names is None else tuple(name.strip() for name in names.split(","))


def check_named(rows: Dataset, name: str, argument: str, setting: str) -> None:
    """Refuse, by a ValueError, rows without a column that a setting names."""
    if name not in rows.column_names:
        raise ValueError(
            f"{argument} lacks the column {setting}={short_repr(name)}; {nearest_valid(name, rows.column_names)}"
        )


def _in_order_of_model(labels: tuple[str, ...], config: PreTrainedConfig, argument: str) -> tuple[str, ...]:
    """Several columns of labels in the order of the model's names; as they are given if none has such a name."""
    names = [name.casefold() for name in names_of(config)]
    places = {name: names.index(name.casefold()) for name in labels if name.casefold() in names}
    if len(labels) == len(names) == len({*places.values()}):
        return tuple(sorted(labels, key=places.__getitem__))
    if len(labels) > 1 and any(labels[place : place + 1] != (name,) for name, place in places.items()):
        raise ValueError(
            f"label_column={short_repr(','.join(labels))} of {argument}: {first_of(places)} are names of the model's "
            f"labels, {first_of(names_of(config))}, at other places; name the columns in that order"
        )
    return labels


def _texts(rows: Dataset, kind: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Columns of usual names, those with text before others; else the only column of strings.

    Only `text` is surely all that a row has to say: others are no answer where more texts lie beside them.
    """
    known = by_lower_name(rows.column_names)
    if kind == ANSWERS:
        return tuple(known[name] for name in ("question", "context") if name in known)
    # columns of words come first for tags
    if kind == TAGS and (words := words_column(rows)) is not None:
        return (words,)
    # then a usual pair of strings, else a single usual column of strings
    strings = {name: known[name] for name in known if is_string(rows.features[known[name]])}
    if kind != TAGS and (pair := pair_in(strings)):
        return tuple(strings[name] for name in pair)
    if kind != TAGS and strings.keys() & set(pair := pair_in(known)) and pair[1] != "answer":
        return tuple(known[name] for name in pair)  # one is of another type, which `check_rows` refuses
    if single := next((strings[name] for name in _TEXTS if name in strings), None):
        read = {single, *labels, *(known[name] for name in _LABEL_COLUMNS[kind] if name in known)}
        is_sure = single.lower() == _TEXTS[0] or not _others_with_text(rows, read)
        return (single,) if is_sure else ()
    # nothing usual: the only column of strings that isn't named as labels are
    others = [column for name, column in strings.items() if name not in _LABEL_COLUMNS[kind]]
    usual = [known[name] for name in _TEXTS if name in known]  # of another type, which `check_rows` refuses
    return tuple(others) if len(others) == 1 else tuple(usual[:1])


def _others_with_text(rows: Dataset, read: Collection[str]) -> list[str]:
    """Other columns most of whose first cells have three words or more, in a text or a list of texts."""
    first = rows.take(min(len(rows), _LOOKED_AT)).remove_columns(list(read))
    found = []
    for name in first.column_names:
        cells = [
            " ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in first[name] if cell is not None
        ]
        num_texts = sum(isinstance(cell, str) and len(cell.split()) > 2 for cell in cells)
        found += [name] * (num_texts > len(cells) / 2)
    return found


def _labels(
    rows: Dataset, config: PreTrainedConfig, kind: str, texts: tuple[str, ...], argument: str
) -> tuple[str, ...]:
    """Columns of usual names, or one for each of the model's labels; refuses columns of some of these alone."""
    known = by_lower_name(name for name in rows.column_names if name not in texts)
    wanted = [name.lower() for name in names_of(config)]
    # spans of a text go by other names than tags of words
    usual = _LABEL_COLUMNS[kind] if kind != TAGS or is_of_words(texts) else SPAN_COLUMNS
    found = [known[name] for name in usual if name in known]
    if kind in (LABELS, VALUES) and not found and any(name in known for name in wanted):
        names = names_of(config)
        own = {name: name if name in rows.column_names else known.get(name.lower()) for name in names}
        # of names that differ in case alone, each has its own column
        if lacking := [repr(name) for name, column in own.items() if column is None or column in {*names} - {name}]:
            raise ValueError(
                f"{argument} has columns of some of the model's labels, but lacks {join_some(lacking)}; add a column "
                "for each, or drop all of them for a run without labels"
            )
        return tuple(column for column in own.values() if column)
    # of several candidates, the first whose classes are the model's
    of_the_model = [name for name in found if set(map(str.lower, class_names(rows.features[name]))) == set(wanted)]
    return tuple((of_the_model or found)[:1])


def class_names(feature: Any) -> list[str]:
    """Names of the classes that a feature numbers, itself or in its lists; none where it has none."""
    inner = getattr(feature, "feature", feature)
    return list(inner.names) if isinstance(inner, ClassLabel) else []


def is_string(feature: Any) -> bool:
    """Whether a column holds a text a row."""
    return isinstance(feature, Value) and feature.dtype in _STRINGS


def is_of_words(texts: Sequence[str]) -> bool:
    """Whether columns of text are one of words, by its name."""
    return len(texts) == 1 and texts[0].lower() in _WORDS


def words_column(rows: Dataset) -> str | None:
    """The column that holds words, by its name; some tools have objects there, with each token's place."""
    known = by_lower_name(rows.column_names)
    for name in (known[word] for word in _WORDS if word in known):
        feature = rows.features[name]
        if is_string(feature) or is_string(getattr(feature, "feature", None)):
            return name
    return None


def ranks_pairs(columns: Collection[str]) -> bool:
    """Whether rows of these columns are for a model that ranks texts: a usual pair, and nothing that a text is worth.

    Example:
    ```python
    >>> ranks_pairs(["query", "passage"]), ranks_pairs(["sentence1", "sentence2", "score"])
    (True, False)

    ```
    """
    pair = pair_in(columns)
    return bool(pair) and (tuple(map(str.lower, pair)) in RANKED_PAIRS or not has_values(columns))


def pair_in(columns: Collection[str]) -> tuple[str, ...]:
    """The columns of a usual pair of texts; none where there is no such pair."""
    known = by_lower_name(columns)
    pair = next((pair for pair in _PAIRS if known.keys() >= set(pair)), ())
    return tuple(known[name] for name in pair)


def has_values(columns: Collection[str]) -> bool:
    """Whether one of the columns usually holds a number that a text is worth."""
    known = by_lower_name(columns)
    return any(name in known for name in _VALUE_COLUMNS)
