"""One line on what a run has read: rows, labels, tokens, and which columns were read and which not."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from datasets import Dataset

from .blocks import some_blocks

_MEASURED_ROWS = 1000


def read_line(train: Any, held_out: Dataset, columns: str = "", *, num_labelled: int | None = None) -> str:
    """Say how many rows were read, and what of them.

    Args:
        train: tokenized rows to train on, a table or a stream.
        held_out: tokenized rows to evaluate on.
        columns: of [`columns_words`]; empty where rows have none.
        num_labelled: rows of both with labels that count; None for rows that need none.

    Example:
    ```python
    >>> rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4})
    >>> read_line(rows, rows.select([0]), columns_words(["text"], ["id"]), num_labelled=5)
    'rows: 4 to train on, 1 held out, 5 with labels, 3 tokens at the median; read: text; not read: id'

    ```
    """
    is_table = isinstance(train, Dataset)
    measured = some_blocks(train if is_table else held_out, _MEASURED_ROWS)
    parts = [f"rows: {len(train):,} to train on" if is_table else "rows: a stream to train on"]
    parts.append(f"{len(held_out):,} held out")
    if num_labelled is not None:
        parts.append(f"{num_labelled:,} with labels")
    if "input_ids" in measured.column_names and len(measured):
        parts.append(f"{np.median(list(map(len, measured['input_ids']))):.0f} tokens at the median")
    return "; ".join(filter(None, (", ".join(parts), columns)))


def columns_words(read: Iterable[str], present: Iterable[str]) -> str:
    """Name the columns that are read, and those of the `present` ones that are not."""
    names = list(dict.fromkeys(read))
    others = [name for name in dict.fromkeys(present) if name not in names]
    return "; ".join([f"read: {', '.join(names)}", *([f"not read: {', '.join(others)}"] if others else [])])
