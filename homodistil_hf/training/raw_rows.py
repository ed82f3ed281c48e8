"""Rows of columns that a trainer is given → tokenized rows, as `homodistil distill` makes them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.blocks import tokenize_to_blocks
from ..data.corpus import only_text
from ..data.task_rows.encoding import encode_rows, length_of_rows
from ..data.task_rows.kinds import MASKED_WORDS, find_columns, kind_of
from ..models.architectures import HEADS, max_tokens
from ..models.tokenizers import fitted_length, without_unused_segments


def tokenized(data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> dict[str, Any]:
    """Tokenize the tables without `input_ids`; everything else is as it was.

    Args:
        data: `train_dataset` and `eval_dataset`: rows, a mapping of several sets, or None.
        tokenizer: of the model; nothing is tokenized without one.
        model: its head decides which columns rows have.

    Raises:
        ValueError: columns or labels that aren't the model's.
    """
    tables = [rows for value in data.values() for rows in (value.values() if _is_several(value) else [value])]
    first = next((rows for rows in tables if _is_raw(rows)), None)
    if first is None or not isinstance(tokenizer, PreTrainedTokenizerBase) or type(model).__name__ not in HEADS:
        return dict(data)
    read = _reader(first, next(iter(data)), tokenizer, model)
    found = {}
    for name, value in data.items():
        several = {part: read(rows, f"{name}[{part!r}]") for part, rows in value.items()} if _is_several(value) else {}
        found[name] = several or read(value, name)
    return found


def _is_several(value: Any) -> bool:
    return isinstance(value, dict)


def _is_raw(rows: Any) -> bool:
    return isinstance(rows, Dataset) and "input_ids" not in rows.column_names and rows.format["type"] != "custom"


def _reader(
    first: Dataset, name: str, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
) -> Callable[[Any, str], Any]:
    config = model.config
    kind = kind_of(config, type(model).__name__)
    if kind == MASKED_WORDS:
        length = fitted_length(None, config, argument="max_seq_length", tokenizer=tokenizer)
        return partial(_blocks, tokenizer=tokenizer, length=length, most=max_tokens(config))
    reader = without_unused_segments(tokenizer, config)
    length = length_of_rows(first, find_columns(first, config, kind, argument=name), config, reader)

    def read(rows: Any, argument: str) -> Any:
        if not _is_raw(rows):
            return rows
        columns = find_columns(rows, config, kind, argument=argument)
        return encode_rows(rows, columns, config, reader, max_length=length, argument=argument)

    return read


def _blocks(rows: Any, argument: str, *, tokenizer: PreTrainedTokenizerBase, length: int, most: int) -> Any:
    if not _is_raw(rows) or not len(rows):
        return rows
    text = only_text(rows, None, argument)
    return tokenize_to_blocks(text, tokenizer, max_seq_length=length, max_positions=most)
