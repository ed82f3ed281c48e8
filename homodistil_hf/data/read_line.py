"""One line on what a run has read: rows, labels, tokens, columns; and a warning of rows that teach nothing."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

from .blocks import some_blocks

MEASURED_ROWS = 1000
"""Rows whose tokens are counted."""
logger = logging.getLogger(__name__)


def read_line(
    parts: Mapping[str, Any],
    columns: str = "",
    *,
    num_labelled: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tokens: list[list[int]] | None = None,
    documents: Any = None,
) -> str:
    """Say how many rows were read, and what of them; warn of many that hold nothing, or the same.

    Args:
        parts: what rows are for, in words such as `held out` → rows, texts or a stream; the tokens of the first table
            that is tokenized are counted.
        columns: of [`columns_words`]; empty where rows have none.
        num_labelled: rows of all parts with labels that count; None for rows that need none.
        tokenizer: by which rows were tokenized; None: the rows are not looked at.
        tokens: of some rows, where no table is tokenized.
        documents: texts that share rows, which repeat where these do; None: rows are compared.

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
    if tokens is None and (first := next(tables, None)) is not None:
        tokens = some_blocks(first, MEASURED_ROWS)["input_ids"][:]
    if tokens:
        words.append(f"{np.median(list(map(len, tokens))):.0f} tokens at the median")
        if tokenizer is not None:
            texts = tokens if documents is None else some_blocks(documents, MEASURED_ROWS)["text"][:]
            _warn_of_odd_rows(tokens, texts, tokenizer)
    return "; ".join(filter(None, (f"rows: {', '.join(words)}", columns)))


def _warn_of_odd_rows(tokens: list[list[int]], texts: list[Any], tokenizer: PreTrainedTokenizerBase) -> None:
    unknown = {tokenizer.unk_token_id}
    words = [{*row} - ({*tokenizer.all_special_ids} - unknown) for row in tokens]
    num_special, num_unknown = sum(not row for row in words), sum(row == unknown for row in words)
    num_repeated = len(texts) - len({*map(str, texts)})
    found = [
        (num_special * 10 >= len(tokens), f"{num_special:,} of {len(tokens):,} rows hold special tokens alone"),
        (num_unknown * 10 >= len(tokens), f"{num_unknown:,} of {len(tokens):,} rows hold unknown words alone"),
        (num_repeated * 2 > len(texts), f"{num_repeated:,} of {len(texts):,} texts repeat another"),
    ]
    if odd := [problem for is_odd, problem in found if is_odd]:
        logger.warning("%s; check the column of texts, and the tokenizer", ", ".join(odd))


def columns_words(read: Iterable[str], present: Iterable[str]) -> str:
    """Name the columns that are read, and those of the `present` ones that are not."""
    names = list(dict.fromkeys(read))
    others = [name for name in dict.fromkeys(present) if name not in names]
    return "; ".join([f"read: {', '.join(names)}", *([f"not read: {', '.join(others)}"] if others else [])])
