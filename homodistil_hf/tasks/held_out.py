"""Rows that are kept aside to evaluate on, where none are given: a tenth, with all labels in it."""

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from .columns import HELD_OUT_PART, Columns, ReadRows, is_missing
from .kinds import ANSWERS, CLASSES, LABELS, VALUES
from .labels import finite_number

logger = logging.getLogger(__name__)
_FRACTION = 0.1
_MOST = 1000
_SEED = 1
_FEWEST_TEXTS = 10  # of which a tenth is one
_FEW = 20  # one row in 20


def keep_aside(rows: Dataset, columns: Columns, *, together: str | None = None) -> tuple[Dataset, Dataset, str]:
    """Split rows into those to train on and those to evaluate on, always alike: a tenth, about 1,000 at most.

    Rows of classes are drawn label by label, those of values by their size, those of several labels by all that a row
    has, questions with all of their context. A class of a single row stays in training, and rows of equal texts are
    on one side.

    Args:
        rows: all rows.
        columns: those that were found.
        together: column whose equal values stay on one side, such as that of queries; default: contexts of questions.

    Returns:
        Rows to train on, rows kept aside, and how they were drawn.

    Example:
    ```python
    >>> rows = Dataset.from_dict({"text": ["a"] * 40, "label": [0] * 30 + [1] * 10})
    >>> train, aside, how = keep_aside(rows, Columns(CLASSES, ("text",), ("label",)))
    >>> len(train), sorted(aside["label"]), how
    (36, [0, 0, 0, 1], 'drawn label by label')

    ```
    """
    kept, aside, how = _divided(rows, columns, together)
    return rows.select(kept), rows.select(aside), how


def _divided(rows: Dataset, columns: Columns, together: str | None) -> tuple[list[int], list[int], str]:
    """Places of rows to train on, and of those kept aside, and how these were drawn."""
    has_groups = together is not None or columns.kind == ANSWERS
    groups = [] if has_groups else _groups(_texts(rows, columns))
    if is_apart := len(groups) >= _FEWEST_TEXTS:
        # a text of more rows than are kept aside stays in training
        most = max(1, round(min(_FRACTION, _MOST / len(rows)) * len(rows)))
        groups = [places for places in groups if len(places) <= most]
    if not is_apart or not groups:
        groups = [[place] for place in range(len(rows))]
    chosen, how = _drawn(rows.select([group[0] for group in groups]), columns, together)
    aside = sorted(place for number in chosen for place in groups[number])
    how += ", equal texts together" * (len(groups) < len(rows))
    return sorted(set(range(len(rows))) - set(aside)), aside, how


def _drawn(rows: Dataset, columns: Columns, together: str | None) -> tuple[list[int], str]:
    """Places of rows that are kept aside, and how they were drawn."""
    share = min(_FRACTION, _MOST / len(rows))
    draw = np.random.RandomState(_SEED)
    if columns.kind == ANSWERS:
        together = columns.texts[1]
    if together is not None:
        aside, how = _whole_groups(rows[together][:], share, draw), f"all rows of a {together!r} together"
    elif columns.kind == VALUES and columns.labels:
        # a missing label is the largest; what is no number is refused later, with its row
        firsts = [value[0] if isinstance(value, list) and value else value for value in rows[columns.labels[0]]]
        keys: list[Any] = [(is_missing(first), finite_number(first) or 0.0) for first in firsts]
        aside, how = _every_other(keys, share), "spread over their values"
    elif columns.kind == LABELS and columns.labels:
        keys = [str(row) for row in zip(*(rows[name][:] for name in columns.labels), strict=True)]
        aside, how = _every_other(keys, share), "spread over their labels"
    else:
        has_labels = columns.kind == CLASSES and bool(columns.labels)
        keys = [str(label) for label in rows[columns.labels[0]]] if has_labels else [""] * len(rows)
        # a row of every label, unless it is the only one
        aside, how = [], "drawn label by label" if has_labels else "drawn at random"
        for places in _groups(keys):
            count = max(round(share * len(places)), int(len(places) > 1))
            aside += draw.permutation(places)[:count].tolist()
    # at least one row to evaluate on
    return sorted(aside) or [len(rows) - 1], how


def apart(part: ReadRows, log: Callable[[str], None], *, together: str | None = None) -> tuple[ReadRows, ReadRows]:
    """Keep rows aside as [`keep_aside`], and say so; returns both, those to train on first."""
    kept, aside, how = _divided(part.rows, part.columns, together)
    log(f"eval_data is not set: {len(aside):,} of {len(part.rows):,} rows of {part.argument} are kept aside, {how}")
    both = [part._replace(rows=part.rows.select(one), numbers=[place + 1 for place in one]) for one in (kept, aside)]
    return both[0], both[1]._replace(argument=f"{HELD_OUT_PART}{part.argument}")


def warn_of_learned_texts(train: ReadRows, held_out: ReadRows) -> None:
    """Warn where the texts of many rows to evaluate on are among those to train on."""
    known, texts = set(_texts(train.rows, train.columns)), _texts(held_out.rows, held_out.columns)
    if (count := sum(text in known for text in texts)) * _FEW > len(texts):
        logger.warning(
            "%s of %s rows of %s have texts of %s; drop them, or scores on what was learned count",
            *(f"{count:,}", f"{len(texts):,}", held_out.argument, train.argument),
        )


def _texts(rows: Dataset, columns: Columns) -> list[Hashable]:
    """The texts of each row as one word."""
    return [str(row) for row in zip(*(rows[name][:] for name in columns.texts), strict=True)]


def _groups(keys: list[Hashable]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _every_other(keys: Sequence[Any], share: float) -> list[int]:
    """Places at equal distances in the order of their keys."""
    order = sorted(range(len(keys)), key=lambda place: (keys[place], place))
    every = max(2, round(1 / share))
    # begin half a distance in, so that neither end is favoured
    return order[every // 2 :: every]


def _whole_groups(keys: list[Any], share: float, draw: np.random.RandomState) -> list[int]:
    groups = _groups(keys)
    order = [groups[place] for place in draw.permutation(len(groups))]
    chosen: list[int] = []
    # one group is left to train on
    while len(order) > 1 and len(chosen) < max(1, round(share * len(keys))):
        chosen += order.pop()
    return chosen
