"""Rows of a task → tokenized rows for its model, and the length that fits them."""

import logging
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..data.blocks import some_blocks
from ..data.delimited import parsed_cell
from ..data.masking import UNKNOWN_CLASS
from ..models.architectures import max_tokens
from ..models.tokenizers import as_it_was
from .columns import Columns, is_missing, is_string, type_of
from .kinds import ANSWERS, TAGS
from .labels import label_numbers
from .questions import (
    QUESTION_FEATURES,
    WindowSizes,
    check_answers,
    labelled_inputs,
    windows_in_batches,
)
from .tags import TaggedText, entries_of, tagged_texts, tagged_tokens

logger = logging.getLogger(__name__)
LEAST_ROWS = 8
_PERCENTILE = 99
_MEASURED_ROWS = 10_000
_MULTIPLE = 8
_SHORTEST = 16


def encode_rows(
    rows: Dataset,
    columns: Columns,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    argument: str = "train_data",
    windows: WindowSizes | None = None,
) -> Dataset:
    """Tokenize rows that [`check_rows`] has passed, unpadded, with the labels that the model's loss takes.

    Args:
        rows: with the columns.
        columns: those that [`find_columns`] found.
        config: of the model.
        tokenizer: of the model.
        max_length: tokens of a row at most, special ones included; longer ones are cut, contexts of questions into
            windows.
        argument: the user's name for the rows in messages.
        windows: sizes of windows; default: the usual ones within `max_length`.

    Returns:
        `Dataset`: the tokenizer's columns, and `labels`, or `start_positions` and `end_positions`; unknown ones count
        in the comparison with the teacher alone.

    Raises:
        ValueError: a label that is none of the model's.
    """
    if columns.kind == ANSWERS:
        sizes = windows or WindowSizes.within(max_length)
        questions = as_questions(rows, columns, argument)
        parts = [
            Dataset.from_list(
                [
                    {**window.inputs, "start_positions": UNKNOWN_CLASS, "end_positions": UNKNOWN_CLASS}
                    if batch[window.row]["answers"] is None
                    else labelled_inputs(window, batch[window.row])
                    for window in of_batch
                ]
            )
            for batch, of_batch in windows_in_batches(questions, tokenizer, sizes)
        ]
        return datasets.concatenate_datasets(parts)

    def tagged(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        texts = [TaggedText(*row) for row in zip(batch["text"], batch["words"], batch["tags"], strict=True)]
        return tagged_tokens(texts, tokenizer, max_length)

    def tokenized(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        with as_it_was(tokenizer):
            return dict(tokenizer(*(batch[name] for name in columns.texts), truncation=True, max_length=max_length))

    if columns.kind == TAGS:
        texts = tagged_texts(rows, columns, config, tokenizer, argument)
        table, tokenize = Dataset.from_list([text._asdict() for text in texts]), tagged
    else:
        table, tokenize = rows.select_columns(list(columns.texts)), tokenized
        labels = label_numbers(rows, columns, config, argument)
    table = table.map(tokenize, batched=True, remove_columns=table.column_names, desc="Tokenizing rows")
    return table if columns.kind == TAGS else table.add_column("labels", labels)


def check_rows(rows: Dataset, columns: Columns, argument: str, *, least: int = 1) -> None:
    """Refuse, by a ValueError, fewer than `least` rows, and rows without a text."""
    if len(rows) < least:
        raise ValueError(f"{argument} has {len(rows)} rows; expected {least} or more")
    for name in columns.texts:
        if not is_string(rows.features[name]) and not columns.are_words:
            raise ValueError(
                f"{argument}: column {name!r} holds {type_of(rows.features[name])}; expected a text a row: name "
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


def as_questions(rows: Dataset, columns: Columns, argument: str) -> list[dict[str, Any]]:
    """Rows as SQuAD has them: `id`, `question`, `context`, `answers`, which are None where a row has none to learn.

    Raises:
        ValueError: an answer that isn't at its place.
    """
    question, context = (rows[name][:] for name in columns.texts)
    cells = rows[columns.labels[0]][:] if columns.labels else [None] * len(rows)
    has_ids = "id" in rows.column_names
    ids = map(str, rows["id"] if has_ids else range(1, len(rows) + 1))
    questions = []
    for identity, asked, text, cell in zip(ids, question, context, cells, strict=True):
        answers = None
        if not is_missing(cell):
            # lists `text` and `answer_start`, a list of objects with both, or either of them in a file of words
            answers = parsed_cell(cell) if isinstance(cell, str) else cell
            if isinstance(answers, list) and all(isinstance(answer, Mapping) for answer in answers):
                answers = {name: [answer.get(name) for answer in answers] for name in ("text", "answer_start")}
            where = f"question id={identity!r}" if has_ids else f"row {identity}"
            check_answers(answers, text, f"{argument}: {where}")
        questions.append({"id": identity, "context": text, "question": asked, "answers": answers})
    return questions


def question_rows(rows: Dataset, columns: Columns, argument: str) -> Dataset | None:
    """The questions with known answers as a table of SQuAD's columns; None where there are none."""
    known = [row for row in as_questions(rows, columns, argument) if row["answers"] is not None]
    return Dataset.from_list(known, features=QUESTION_FEATURES) if known else None


def texts_of(rows: Dataset, columns: Columns) -> Dataset:
    """All texts of rows as documents: one column, `text`."""
    return Dataset.from_dict({"text": [text for cells in texts_by_column(rows, columns) for text in cells]})


def texts_by_column(rows: Dataset, columns: Columns) -> list[list[str]]:
    """The texts of each column of texts, a list a column; words have spaces between them."""
    cells = [rows[name][:] for name in columns.texts]
    if not columns.are_words:
        return cells
    return [[" ".join(map(str, entries_of(cell))) for cell in cells[0]]]


def length_of_rows(
    rows: Dataset, columns: Columns, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> int:
    """Tokens a row that 99 of 100 rows fit into, a multiple of 8; at most what the model and its tokenizer read.

    Rows of questions get 384 tokens at most; longer contexts have several windows.
    """
    tokens = some_tokens(rows, columns, tokenizer, _MEASURED_ROWS)
    wanted = int(np.ceil(np.percentile(list(map(len, tokens)), _PERCENTILE)))
    most = min(max_tokens(config), tokenizer.model_max_length)
    if columns.kind == ANSWERS:
        most = min(most, WindowSizes().row_length)
    return int(min(most, max(_SHORTEST, -(-wanted // _MULTIPLE) * _MULTIPLE)))


def some_tokens(rows: Dataset, columns: Columns, tokenizer: PreTrainedTokenizerBase, num_rows: int) -> list[list[int]]:
    """Tokens of `num_rows` rows at equal distances, whole and with special ones."""
    with as_it_was(tokenizer):
        texts = texts_by_column(some_blocks(rows, num_rows), columns)
        ids: list[list[int]] = tokenizer(*texts, truncation=False, verbose=False)["input_ids"]
    return ids


def what_fits(length: int, columns: Columns, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """Say what becomes of rows over a length that [`length_of_rows`] found."""
    if columns.kind == ANSWERS:
        return "longer contexts are cut into windows that overlap"
    most = min(max_tokens(config), tokenizer.model_max_length)
    if length >= most:
        return "the model reads no more, longer rows are cut"
    return f"99 of 100 rows fit, longer ones are cut; {most} are possible"
