"""One line on what a run has read: rows, labels, tokens, and which columns were read and which not."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from .blocks import some_blocks

_MEASURED_ROWS = 1000


def read_line(parts: Mapping[str, Any], columns: str = "", *, num_labelled: int | None = None) -> str:
    """Say how many rows were read, and what of them.

    Args:
        parts: what rows are for, in words such as `held out` → rows, texts or a stream; the tokens of the first table
            that is tokenized are counted.
        columns: of [`columns_words`]; empty where rows have none.
        num_labelled: rows of all parts with labels that count; None for rows that need none.

    Example:
    ```python
    >>> rows = Dataset.from_dict({"input_ids": [[1, 2, 3]] * 4})
    >>> parts = {"to train on": rows, "held out": rows.select([0])}
    >>> read_line(parts, columns_words(["text"], ["id"]), num_labelled=5)
    'rows: 4 to train on, 1 held out, 5 with labels, 3 tokens at the median; read: text; not read: id'

    ```
    """
    words = [
        f"{'a stream' if isinstance(rows, IterableDataset) else f'{len(rows):,}'} {what}"
        for what, rows in parts.items()
    ]
    if num_labelled is not None:
        words.append(f"{num_labelled:,} with labels")
    tables = (rows for rows in parts.values() if isinstance(rows, Dataset) and "input_ids" in rows.column_names)
    if (first := next(tables, None)) is not None and len(first):
        lengths = list(map(len, some_blocks(first, _MEASURED_ROWS)["input_ids"]))
        words.append(f"{np.median(lengths):.0f} tokens at the median")
    return "; ".join(filter(None, (f"rows: {', '.join(words)}", columns)))


def columns_words(read: Iterable[str], present: Iterable[str]) -> str:
    """Name the columns that are read, and those of the `present` ones that are not."""
    names = list(dict.fromkeys(read))
    others = [name for name in dict.fromkeys(present) if name not in names]
    return "; ".join([f"read: {', '.join(names)}", *([f"not read: {', '.join(others)}"] if others else [])])
