"""Rows of a task → tokenized rows for its model, and the length that fits them."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.blocks import some_blocks
from ..data.delimited import parsed_cell
from ..data.masking import IGNORED_LABEL, UNKNOWN_CLASS
from ..models.architectures import max_tokens
from ..models.tokenizers import as_it_was
from .columns import Columns, ReadRows, is_missing
from .kinds import ANSWERS, TAGS
from .labels import label_numbers
from .questions import (
    QUESTION_FEATURES,
    WINDOW_LENGTH,
    answer_grades,
    check_answers,
    labelled_inputs,
    windows_in_batches,
)
from .tags import entries_of, tagged_texts, tagged_tokens

logger = logging.getLogger(__name__)
_PERCENTILE = 99
_MEASURED_ROWS = 10_000
_MULTIPLE = 8
_SHORTEST = 16


def encode_rows(
    part: ReadRows,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
) -> Dataset:
    """Tokenize rows that [`check_rows`] has passed, unpadded, with the labels that the model's loss takes.

    Args:
        part: the rows.
        config: of the model.
        tokenizer: of the model.
        max_length: tokens of a row at most, special ones included; longer ones are cut, contexts of questions into
            windows.

    Returns:
        `Dataset`: the tokenizer's columns, and `labels`, or `start_positions` and `end_positions`; unknown ones count
        in the comparison with the teacher alone.

    Raises:
        ValueError: a label that is none of the model's.
    """
    columns = part.columns
    if columns.kind == ANSWERS:
        questions = as_questions(part)
        parts = [
            Dataset.from_list(
                [
                    {**window.inputs, "start_positions": UNKNOWN_CLASS, "end_positions": UNKNOWN_CLASS}
                    if batch[window.row]["answers"] is None
                    else labelled_inputs(window, batch[window.row])
                    for window in of_batch
                ]
            )
            for batch, of_batch in windows_in_batches(questions, tokenizer, max_length)
        ]
        return datasets.concatenate_datasets(parts)

    def tokenized(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        with as_it_was(tokenizer):
            return dict(tokenizer(*(batch[name] for name in columns.texts), truncation=True, max_length=max_length))

    if columns.kind == TAGS:
        table = Dataset.from_list([text._asdict() for text in tagged_texts(part, config, tokenizer)])
        tokenize: Any = partial(tagged_tokens, tokenizer=tokenizer, max_length=max_length)
    else:
        table, tokenize = part.rows.select_columns(list(columns.texts)), tokenized
        labels = label_numbers(part, config)
    words = table
    table = table.map(tokenize, batched=True, remove_columns=table.column_names, desc="Tokenizing rows")
    if columns.kind != TAGS:
        return table.add_column("labels", labels)
    # rows that fill the length may be cut; a word may have no token
    full = [place for place, ids in enumerate(table["input_ids"]) if len(ids) >= max_length]
    num_given = _num_tagged(words["tags"][:])
    num_read = num_given - _num_tagged(words.select(full)["tags"]) + _num_tagged(table.select(full)["labels"])
    if num_read < num_given:
        logger.info(
            "%s: %s of %s tagged words lie beyond max_length=%d tokens, and are neither learned nor measured",
            *(part.argument, f"{num_given - num_read:,}", f"{num_given:,}", max_length),
        )
    return table


def _num_tagged(rows: Iterable[Sequence[int]]) -> int:
    return sum(tag != IGNORED_LABEL for row in rows for tag in row)


def as_questions(part: ReadRows) -> list[dict[str, Any]]:
    """Rows as SQuAD has them: `id`, `question`, `context`, `answers`, which are None where a row has none to learn.

    Raises:
        ValueError: an answer that isn't at its place.
    """
    rows, columns, argument, _ = part
    question, context = (rows[name][:] for name in columns.texts)
    cells = rows[columns.labels[0]][:] if columns.labels else [None] * len(rows)
    has_ids = "id" in rows.column_names
    ids = map(str, rows["id"] if has_ids else range(1, len(rows) + 1))
    questions = []
    for place, (identity, asked, text, cell) in enumerate(zip(ids, question, context, cells, strict=True)):
        answers = None
        if not is_missing(cell):
            # lists `text` and `answer_start`, a list of objects with both, or either of them in a file of words
            answers = parsed_cell(cell) if isinstance(cell, str) else cell
            if isinstance(answers, list) and all(isinstance(answer, Mapping) for answer in answers):
                answers = {name: [answer.get(name) for answer in answers] for name in ("text", "answer_start")}
            where = f"question id={identity!r}" if has_ids else part.row(place)
            check_answers(answers, text, f"{argument}: {where}")
        questions.append({"id": identity, "context": text, "question": asked, "answers": answers})
    return questions


def question_rows(part: ReadRows) -> Dataset | None:
    """The questions with known answers as a table of SQuAD's columns; None where there are none."""
    known = [row for row in as_questions(part) if row["answers"] is not None]
    return Dataset.from_list(known, features=QUESTION_FEATURES) if known else None


def grading_of(
    part: ReadRows, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Callable[[PreTrainedModel], dict[str, float]] | None:
    """Grades a model's answers to questions as [`answer_grades`]; None for other rows, and without known answers."""
    if part.columns.kind != ANSWERS or (questions := question_rows(part)) is None:
        return None
    return partial(answer_grades, questions=questions, tokenizer=tokenizer, max_length=max_length)


def texts_of(part: ReadRows) -> Dataset:
    """All texts of rows as documents: one column, `text`."""
    return Dataset.from_dict({"text": [text for cells in texts_by_column(part) for text in cells]})


def texts_by_column(part: ReadRows) -> list[list[str]]:
    """The texts of each column of texts, a list a column; words have spaces between them."""
    cells = [part.rows[name][:] for name in part.columns.texts]
    if not part.columns.are_words:
        return cells
    return [[" ".join(map(str, entries_of(cell))) for cell in cells[0]]]


def length_of_rows(part: ReadRows, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens a row that 99 of 100 rows fit into, a multiple of 8; at most what the model and its tokenizer read.

    Rows of questions get 384 tokens at most; longer contexts have several windows.
    """
    tokens = some_tokens(part, tokenizer, _MEASURED_ROWS)
    wanted = int(np.ceil(np.percentile(list(map(len, tokens)), _PERCENTILE)))
    most = min(max_tokens(config), tokenizer.model_max_length)
    if part.columns.kind == ANSWERS:
        most = min(most, WINDOW_LENGTH)
    return int(min(most, max(_SHORTEST, -(-wanted // _MULTIPLE) * _MULTIPLE)))


def some_tokens(part: ReadRows, tokenizer: PreTrainedTokenizerBase, num_rows: int) -> list[list[int]]:
    """Tokens of `num_rows` rows at equal distances, whole and with special ones."""
    with as_it_was(tokenizer):
        texts = texts_by_column(part._replace(rows=some_blocks(part.rows, num_rows)))
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
