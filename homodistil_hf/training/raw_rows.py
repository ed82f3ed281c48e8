"""Raw rows that a trainer gets → tokenized rows, as `homodistil distill` makes them, and grades of whole rows.

Readers of text and of tasks are imported where there are raw rows.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from ..files.messages import first_of
from ..models.architectures import HEADS, max_tokens
from ..models.tokenizers import as_heads_read, fitted_length
from ..tasks.kinds import ANSWERS, MASKED_WORDS, TAGS, task_kind_of

if TYPE_CHECKING:
    from ..tasks.columns import ReadRows

logger = logging.getLogger(__name__)

_OF_NO_USE = ("id", "idx", "title", "__index_level_0__")
"""Columns that hold no labels."""
_PURPOSES = {"train_dataset": "to train on", "eval_dataset": "held out"}
Grading: TypeAlias = Callable[[PreTrainedModel], dict[str, float]]
"""Model → metrics that batches can't give, such as those of answers that several windows hold."""


class RawReader:
    """Reads raw rows for a model, by its `tokenizer`."""

    tokenizer: PreTrainedTokenizerBase
    facts: Mapping[str, Any] | None = None
    """The kind of a task's rows and their columns of text; None of plain text."""

    def found(self, rows: Dataset, argument: str) -> "ReadRows | None":
        """Raw rows of a task with their columns; None for plain text."""

    def encoded(self, rows: Dataset, argument: str, part: "ReadRows | None") -> Any:
        """Tokenize raw rows, of a task by what was [`found`] of them. `argument` names the rows in messages.

        `info.description` of plain text names the columns that were read.
        """
        raise NotImplementedError

    def grading(self, part: "ReadRows") -> Grading | None:
        """Grades a model on rows of a task as wholes; None where batches measure all."""


@dataclass(frozen=True)
class RowReader(RawReader):
    """Reads raw rows for a model with a head.

    Args:
        kind: of the model.
        config: of the model.
        tokenizer: of the model.
        length: tokens of a row at most.
        facts: of the first rows of a task.
    """

    kind: str
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    length: int
    facts: Mapping[str, Any] | None = None

    @override
    def found(self, rows: Dataset, argument: str) -> "ReadRows | None":
        if self.kind == MASKED_WORDS:
            return None
        from ..tasks.columns import ReadRows, find_columns

        return ReadRows(rows, find_columns(rows, self.config, self.kind, argument=argument), argument)

    @override
    def encoded(self, rows: Dataset, argument: str, part: "ReadRows | None") -> Any:
        from ..data.blocks import tokenize_to_blocks
        from ..data.corpus import only_text
        from ..tasks.columns import check_rows
        from ..tasks.encoding import encode_rows

        if part is not None:
            check_rows(part)
            return encode_rows(part, self.config, self.tokenizer, max_length=self.length)
        if not len(rows):
            return rows
        text = only_text(rows, None, argument)
        most = max_tokens(self.config)
        blocks = tokenize_to_blocks(text, self.tokenizer, max_seq_length=self.length, max_positions=most)
        blocks.info.description = text.info.description
        return blocks

    @override
    def grading(self, part: "ReadRows") -> Grading | None:
        from ..tasks.encoding import grading_of

        return grading_of(part, self.tokenizer, self.length)


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
    kind = task_kind_of(config, type(model).__name__)
    if kind == MASKED_WORDS:
        length = fitted_length(None, config, argument="max_seq_length", tokenizer=tokenizer)
        return RowReader(kind, config, tokenizer, length)
    if not len(first):
        raise ValueError(f"{argument} is empty (0 rows); check its filters, split and path")
    from ..tasks.columns import LABEL_COLUMNS, ReadRows, find_columns
    from ..tasks.encoding import length_of_rows

    own = as_heads_read(tokenizer, config)
    columns = find_columns(first, config, kind, argument=argument)
    length = length_of_rows(ReadRows(first, columns, argument), config, own)
    logger.info("%s: %s; max_seq_length=%d", argument, columns.describe(), length)
    unread = {name for name in first.column_names if name.lower() not in _OF_NO_USE} - {*columns.texts}
    if unread and not columns.labels and not LABEL_COLUMNS & {*map(str.lower, unread)} and kind != ANSWERS:
        logger.warning(
            "%s: rows are read without labels, as no column is named like one; rename the column that holds them to "
            "%r, if it is among %s",
            *(argument, "tags" if kind == TAGS else "label", first_of(map(repr, sorted(unread)))),
        )
    return RowReader(kind, config, own, length, {"kind": kind, "text_columns": list(columns.texts)})


def tokenized(data: Mapping[str, Any], reader: RawReader | None) -> tuple[dict[str, Any], list[tuple[Any, Grading]]]:
    """Tokenize the tables without `input_ids`, and say what was read; arguments and errors as [`reader_of`].

    Returns:
        The data, tokenized; and those held-out sets of them that are graded by whole rows, each with its grading.
    """
    if reader is None:
        return dict(data), []
    found = named_sets(data)
    raw = {name: rows.with_format(None) for name, rows in found.items() if is_raw(rows)}
    parts = {name: part for name, rows in raw.items() if (part := reader.found(rows, name)) is not None}
    read: Mapping[str, Any] = parts
    if parts and isinstance(reader, RowReader):
        from ..tasks.labels import read_alike

        read = dict(zip(parts, read_alike([*parts.values()], reader.config), strict=True))
    found |= {name: reader.encoded(rows, name, read.get(name)) for name, rows in raw.items()}
    if raw:
        from ..data.read_line import read_line
        from ..tasks.columns import what_is_read

        columns = what_is_read([*parts.values()]) if parts else {"columns": found[next(iter(raw))].info.description}
        of_sets = {_PURPOSES.get(name, f"in {name}"): found[name] for name in raw}
        logger.info(read_line(of_sets, **columns, tokenizer=reader.tokenizer))
    graded = {name: reader.grading(part) for name, part in parts.items() if name.startswith("eval_dataset")}
    gradings = [(found[name], grading) for name, grading in graded.items() if grading is not None]
    # back in the shape of the arguments: one set, or several by name
    return {
        name: {part: found[f"{name}[{part!r}]"] for part in value} if isinstance(value, dict) else found[name]
        for name, value in data.items()
    }, gradings


def named_sets(data: Mapping[str, Any]) -> dict[str, Any]:
    """All sets of rows by their names in messages; several of one argument by their own names behind its."""
    named = {name: value if isinstance(value, dict) else {None: value} for name, value in data.items()}
    return {
        name if part is None else f"{name}[{part!r}]": rows
        for name, parts in named.items()
        for part, rows in parts.items()
    }


def first_raw(data: Mapping[str, Any]) -> tuple[str, Dataset | None]:
    """The first set of rows that [`is_raw`], behind its name in messages; None without any."""
    sets = named_sets(data).items()
    return next(((name, rows.with_format(None)) for name, rows in sets if is_raw(rows)), ("", None))


def is_raw(rows: Any) -> bool:
    """Whether rows have columns that are not tokenized."""
    return isinstance(rows, Dataset) and "input_ids" not in rows.column_names and rows.format["type"] != "custom"
