"""Rows of a query beside texts that answer it and texts that don't: read as pairs with labels, or as single texts."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from datasets import Dataset, Features, Value

from ..files.messages import join_some, short_repr
from .delimited import parsed_cell

PAIR_COLUMNS = ("query", "passage", "label")
_QUERIES = ("query", "anchor", "question")
_OF_TEXTS = r"(_?(passage|ctx|doc|document|text)s?)?(_?\d+)?"
_POSITIVE, _NEGATIVE = re.compile(rf"pos(itive)?s?{_OF_TEXTS}"), re.compile(rf"(hard_)?neg(ative)?s?{_OF_TEXTS}")
_PASSAGES = ("passage", "document", "text", "answer", "context")
_LISTS = ("passages", "documents", "docs")
_TEXT_KEYS = ("text", "passage_text", "passage", "contents", "content")
_LABEL_KEYS = ("is_selected", "label", "labels", "score", "scores", "relevance")
_LIST = re.compile(r"\s*\[\s*([\"'{].*)?\]\s*", re.DOTALL)
_PAIRS = Features({name: Value("float64" if name == "label" else "string") for name in PAIR_COLUMNS})


class Triplets(NamedTuple):
    """Columns by what they hold; a list's labels are in its objects, or in a list beside it."""

    query: str
    positives: list[str]
    negatives: list[str]
    lists: list[str]
    labels: list[str]

    @property
    def read(self) -> list[str]:
        """All of them."""
        return [self.query, *self.positives, *self.negatives, *self.lists, *self.labels]

    def describe(self) -> str:
        """How pairs are made of them, in words."""
        labels = {"label 1": self.positives, "label 0": self.negatives, "with their labels": self.lists}
        parts = [f"{join_some(map(repr, names))} ({words})" for words, names in labels.items() if names]
        return f"each {self.query!r} makes pairs with its {', '.join(parts)}"

    def pairs_of(self, row: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
        """Query, text and label, which may be None, of each pair in a row."""
        labels = next((row[name] for name in self.labels if isinstance(row[name], list)), None)
        texts = [
            *_texts([row[name] for name in self.positives], 1),
            *_texts([row[name] for name in self.negatives], 0),
        ]
        texts += _texts([_with(row[name], labels) for name in self.lists], None)
        yield from ((row[self.query], text, label) for text, label in texts if row[self.query] and text)

    def pairs_in(
        self, batch: Mapping[str, list[Any]], places: Iterable[int], argument: str
    ) -> Iterator[tuple[str, str, Any]]:
        """[`pairs_of`] all rows of a batch; `argument` and a row's place, counted from 0, begin messages."""
        for place, cells in zip(places, zip(*batch.values(), strict=True), strict=True):
            try:
                yield from self.pairs_of(dict(zip(batch, cells, strict=True)))
            except ValueError as error:
                raise ValueError(f"{argument}: row {place + 1:,}: {error}") from error


def column_types(features: Mapping[str, Any]) -> dict[str, str]:
    """Name of each column → that of its type, such as `string` or `List`."""
    return {
        name: str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__
        for name, feature in features.items()
    }


def by_lower_name(names: Iterable[str]) -> dict[str, str]:
    """Columns by their names in lower case; of names that differ in case alone the lower one.

    Example:
    ```python
    >>> by_lower_name(["text", "Text", "Label"])
    {'text': 'text', 'label': 'Label'}

    ```
    """
    given = list(names)
    return {name.lower(): name for name in given} | {name: name for name in given if name == name.lower()}


def _holds_texts(kind: str) -> bool:
    return "str" in kind or kind in ("List", "LargeList", "dict", "Json")


def query_column_in(names: Iterable[str]) -> str | None:
    """The column that holds a query, by its name; None where there is none."""
    known = by_lower_name(names)
    return next((known[name] for name in _QUERIES if name in known), None)


def triplets_in(types: Mapping[str, str], *, with_pairs: bool = False) -> Triplets | None:
    """Find such columns by their names; None where rows are others, as those of one query and one text are.

    Args:
        types: name of each column → that of its type; `Value` columns of strings hold one text.
        with_pairs: rows of one query and one text count, too, unless a column is called text.

    Example:
    ```python
    >>> triplets_in({"query": "string", "pos": "List", "neg": "List", "id": "int64"}).describe()
    "each 'query' makes pairs with its 'pos' (label 1), 'neg' (label 0)"
    >>> triplets_in({"anchor": "string", "positive": "string"}) is None
    True

    ```
    """
    known = by_lower_name(types)
    query = query_column_in(types)
    positives, negatives = (
        [name for lower, name in known.items() if pattern.fullmatch(lower)] for pattern in (_POSITIVE, _NEGATIVE)
    )
    with_pairs &= "text" not in known
    if (negatives or with_pairs) and not positives:  # a usual name for the text of a pair
        positives = [known[name] for name in _PASSAGES if name in known and _holds_texts(types[known[name]])][:1]
    lists = [known[name] for name in _LISTS if name in known and "str" not in types[known[name]]]
    is_one_text = not with_pairs and not negatives and len(positives) == 1 and "str" in types[positives[0]]
    if query is None or not (positives or lists) or (is_one_text and not lists):
        return None
    labels = [known[name] for name in _LABEL_KEYS if lists and name in known]
    return Triplets(query, positives, negatives, lists, labels)


def as_pairs(rows: Dataset, argument: str = "train_data") -> tuple[Dataset, Triplets | None]:
    """Rows of one pair each, with the columns `PAIR_COLUMNS`, and what they were; other rows as they are.

    Labels are left out where none is known.

    Raises:
        ValueError: no row has a query and a text.
    """
    found = triplets_in(column_types(rows.features))
    if found is None or not len(rows):
        return rows, None

    def pairs(batch: Mapping[str, list[Any]], places: list[int]) -> dict[str, list[Any]]:
        made = list(found.pairs_in(batch, places, argument))
        return dict(zip(PAIR_COLUMNS, map(list, zip(*made, strict=True)) if made else ([], [], []), strict=True))

    read = rows.select_columns(found.read)
    made = read.map(pairs, batched=True, with_indices=True, remove_columns=read.column_names, features=_PAIRS)
    if not len(made):
        raise ValueError(
            f"{argument}: no row has {found.query!r} and a text in {join_some(map(repr, found.read[1:]))}"
        )
    has_labels = any(label is not None for label in made["label"])
    return (made if has_labels else made.remove_columns("label")), found


def _with(cell: Any, labels: Any) -> Any:
    """Texts with the labels that stand in a list beside them."""
    if not isinstance(cell, list) or labels is None or len(cell) != len(labels):
        return cell
    return [{"text": text, "label": label} for text, label in zip(cell, labels, strict=True)]


def _texts(cell: Any, label: Any) -> Iterator[tuple[str, Any]]:
    """Texts in a cell with their labels: a text, an object with a text, a list of these, or an object of lists."""
    if isinstance(cell, str):
        # files of words have lists as JSON, or as Python writes them
        listed = parsed_cell(cell) if _LIST.fullmatch(cell) else None
        if isinstance(listed, str):
            raise ValueError(f"the cell {short_repr(cell)} is no list, though it looks like one; write it as JSON")
        yield from [(cell, label)] if listed is None else _texts(listed, label)
    elif isinstance(cell, list):
        for one in cell:
            yield from _texts(one, label)
    elif isinstance(cell, dict):
        # Arrow gives all objects of a list the keys of each
        known = {key: value for key, value in cell.items() if value is not None}
        text, own = (next((known[key] for key in keys if key in known), None) for keys in (_TEXT_KEYS, _LABEL_KEYS))
        own = label if label is not None else own
        yield from _texts(_with(text, own) if isinstance(own, list) else text, None if isinstance(own, list) else own)
