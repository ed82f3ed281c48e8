"""Rows of columns that a trainer is given → tokenized rows, as `homodistil distill` makes them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.blocks import tokenize_to_blocks
from ..data.corpus import only_text
from ..models.architectures import HEADS, max_tokens
from ..models.tokenizers import fitted_length, without_unused_segments
from ..tasks.columns import find_columns
from ..tasks.encoding import encode_rows, length_of_rows, question_rows
from ..tasks.kinds import ANSWERS, MASKED_WORDS, kind_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowReader:
    """How rows of columns are read for a model.

    Args:
        kind: of the model.
        config: of the model.
        tokenizer: of the model.
        length: tokens of a row at most.
        texts: columns of the first rows' texts, of a task.
    """

    kind: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    length: int
    texts: tuple[str, ...] = ()

    @property
    def described(self) -> dict[str, Any]:
        """What was understood of a task's rows; nothing of plain text."""
        return {"kind": self.kind, "text_columns": list(self.texts)} if self.texts else {}

    def encoded(self, rows: Any, argument: str) -> Any:
        """Tokenize rows of columns; everything else is as it was. `argument` names the rows in messages."""
        if not is_raw(rows):
            return rows
        if self.kind != MASKED_WORDS:
            columns = find_columns(rows, self.config, self.kind, argument=argument)
            return encode_rows(rows, columns, self.config, self.tokenizer, max_length=self.length, argument=argument)
        if not len(rows):
            return rows
        text = only_text(rows, None, argument)
        most = max_tokens(self.config)
        return tokenize_to_blocks(text, self.tokenizer, max_seq_length=self.length, max_positions=most)

    def questions(self, rows: Any, argument: str) -> Dataset | None:
        """Return the questions of rows of columns whose answers are known; None without any."""
        if self.kind != ANSWERS or not is_raw(rows):
            return None
        return question_rows(rows, find_columns(rows, self.config, self.kind, argument=argument), argument)


def reader_of(data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> RowReader | None:
    """Return the reader of tables without `input_ids`; None where there is nothing that it could read.

    Args:
        data: `train_dataset` and `eval_dataset`: rows, a mapping of several sets, or None.
        tokenizer: of the model; nothing is tokenized without one.
        model: its head decides which columns rows have.

    Raises:
        ValueError: columns that aren't the model's.
    """
    argument, first = first_raw(data)
    if first is None or not isinstance(tokenizer, PreTrainedTokenizerBase) or type(model).__name__ not in HEADS:
        return None
    config = model.config
    kind = kind_of(config, type(model).__name__)
    if kind == MASKED_WORDS:
        length = fitted_length(None, config, argument="max_seq_length", tokenizer=tokenizer)
        return RowReader(kind, config, tokenizer, length)
    own = without_unused_segments(tokenizer, config)
    columns = find_columns(first, config, kind, argument=argument)
    length = length_of_rows(first, columns, config, own)
    logger.info("%s: %s; max_seq_length=%d", argument, columns.describe(), length)
    return RowReader(kind, config, own, length, columns.texts)


def tokenized(data: Mapping[str, Any], reader: RowReader | None) -> dict[str, Any]:
    """Tokenize the tables without `input_ids`; arguments and errors as [`reader_of`]."""
    if reader is None:
        return dict(data)
    found = {name: reader.encoded(rows, name) for name, rows in named_sets(data).items()}
    # back in the shape of the arguments: one set, or several by name
    return {
        name: {part: found[f"{name}[{part!r}]"] for part in value} if isinstance(value, dict) else found[name]
        for name, value in data.items()
    }


def named_sets(data: Mapping[str, Any]) -> dict[str, Any]:
    """All sets of rows by their names in messages; several of one argument by their own names behind its."""
    sets: dict[str, Any] = {}
    for name, value in data.items():
        sets |= (
            {f"{name}[{part!r}]": rows for part, rows in value.items()} if isinstance(value, dict) else {name: value}
        )
    return sets


def first_raw(data: Mapping[str, Any]) -> tuple[str, Dataset | None]:
    """The first set of rows that [`is_raw`], behind its name in messages; None without any."""
    return next(((name, rows) for name, rows in named_sets(data).items() if is_raw(rows)), ("", None))


def is_raw(rows: Any) -> bool:
    """Whether rows have columns that are not tokenized."""
    return isinstance(rows, Dataset) and "input_ids" not in rows.column_names and rows.format["type"] != "custom"
