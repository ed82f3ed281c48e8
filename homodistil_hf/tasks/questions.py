"""Questions with their contexts → windows of tokens, and the tokens that begin and end an answer.

A context that is too long for one window of tokens is cut into several windows that overlap.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Features, List, Value
from transformers import PreTrainedTokenizerBase

from ..files.messages import short_repr
from ..files.strict_json import fits

Row = Mapping[str, Any]
_QUESTIONS_AT_ONCE = 1000
QUESTION_FEATURES = Features(
    {
        **dict.fromkeys(("id", "context", "question"), Value("string")),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
    }
)
"""SQuAD's columns."""


@dataclass(frozen=True)
class WindowSizes:
    """Sizes of windows, in tokens: of a window at most, that two windows of a context share, of a question at most."""

    row_length: int = 384
    stride: int = 128
    max_question_tokens: int = 64

    @classmethod
    def within(cls, length: int) -> "WindowSizes":
        """The usual sizes, in windows of `length` tokens: a third at most for what is shared and for the question."""
        usual = cls()
        return cls(length, min(usual.stride, length // 3), min(usual.max_question_tokens, length // 3))


@dataclass(frozen=True)
class Window:
    """A question with a part of its context, as one row of model inputs.

    Args:
        inputs: name of a model input → one number a token.
        row: index of the question's row.
        cls_index: the token that stands for "no answer".
        first_token: the first token of the context.
        offsets: int32 `(C, 2)`, where each of its C tokens begins and ends in the context's characters.
    """

    inputs: Mapping[str, list[int]]
    row: int
    cls_index: int
    first_token: int
    offsets: np.ndarray

    def tokens_of(self, begin: int, end: int) -> tuple[int, int]:
        """First and last token of the characters `begin` … `end` - 1; twice the `cls_index` if any is missing."""
        # tokens that share a character with the answer
        inside = np.flatnonzero((self.offsets[:, 1] > begin) & (self.offsets[:, 0] < end))
        # the window may cut the answer at either end
        is_whole = len(inside) and self.offsets[0, 0] <= begin and end <= self.offsets[-1, 1]
        if not is_whole:
            return self.cls_index, self.cls_index
        return self.first_token + int(inside[0]), self.first_token + int(inside[-1])


def check_windows(sizes: WindowSizes, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that windows advance and that the tokenizer gives offsets.

    Raises:
        ValueError: no fast tokenizer, no token for the beginning, or no room for more context than windows share.
    """
    name = type(tokenizer).__name__
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer={name} has no offsets; expected a fast one, with a tokenizer.json")
    if tokenizer.cls_token_id is None:
        raise ValueError(f"tokenizer={name} has no cls_token, which stands for no answer; set tokenizer.cls_token")
    num_special = tokenizer.num_special_tokens_to_add(pair=True)
    # one token more than is shared, or windows would not advance
    shortest = sizes.max_question_tokens + num_special + sizes.stride + 1
    if sizes.row_length < shortest:
        raise ValueError(
            f"max_length={sizes.row_length} holds no new context beside max_question_tokens="
            f"{sizes.max_question_tokens}, {num_special} special tokens and stride={sizes.stride}; "
            f"nearest valid: {shortest}, or a smaller stride"
        )


def make_windows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, sizes: WindowSizes) -> list[Window]:
    """Cut questions with their contexts into windows: those of the first row, of the second, …; at least one each."""
    check_windows(sizes, tokenizer)
    most, questions = sizes.max_question_tokens, [row["question"].strip() for row in rows]
    places = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    encoded = tokenizer(
        # cut in characters, behind the last token that is read
        [
            question if len(offsets) <= most else question[: offsets[most - 1][1]]
            for question, offsets in zip(questions, places, strict=True)
        ],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=sizes.row_length,
        stride=sizes.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    names = [name for name in tokenizer.model_input_names if name in encoded]
    windows = []
    for part, row in enumerate(encoded["overflow_to_sample_mapping"]):
        # 0 is the question, 1 the context, None a special token
        context = [index for index, side in enumerate(encoded.sequence_ids(part)) if side == 1]
        offsets = np.array(encoded["offset_mapping"][part], dtype=np.int32).reshape(-1, 2)
        inputs = {name: encoded[name][part] for name in names}
        cls_index = inputs["input_ids"].index(tokenizer.cls_token_id)
        windows.append(Window(inputs, row, cls_index, context[0] if context else 0, offsets[context]))
    return windows


def windows_in_batches(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, sizes: WindowSizes
) -> Iterator[tuple[Sequence[Row], list[Window]]]:
    """A thousand rows at once with their windows, as the windows of all rows would be in memory."""
    for first in range(0, len(rows), _QUESTIONS_AT_ONCE):
        batch = rows[first : first + _QUESTIONS_AT_ONCE]
        yield batch, make_windows(batch, tokenizer, sizes)


def labelled_inputs(window: Window, row: Row) -> dict[str, Any]:
    """A window's inputs, with `start_positions` and `end_positions` of the first right answer: of `[CLS]` for none."""
    start, end = window.cls_index, window.cls_index
    texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
    if texts and texts[0].strip():
        # white space around an answer belongs to no token
        begin = starts[0] + len(texts[0]) - len(texts[0].lstrip())
        start, end = window.tokens_of(begin, begin + len(texts[0].strip()))
    return {**window.inputs, "start_positions": start, "end_positions": end}


def check_answers(answers: Any, context: str, label: str) -> None:
    """Refuse, by a ValueError that begins with `label`, answers that aren't at their `answer_start` in a context."""
    remedy = "correct or drop the row"
    if not fits(answers, {"text": [str], "answer_start": [int]}):
        raise ValueError(
            f"{label} has answers={short_repr(answers)}; expected the lists text and answer_start, without empty "
            f"entries: {remedy}"
        )
    texts, starts = answers["text"], answers["answer_start"]
    if len(texts) != len(starts):
        raise ValueError(
            f"{label} has {len(texts)} answers and {len(starts)} answer_start; expected one for each: {remedy}"
        )
    for text, start in zip(texts, starts, strict=True):
        there = context[max(0, start) : max(0, start) + len(text)]
        if start < 0 or there != text:
            raise ValueError(
                f"{label} has answer_start={start}, where the context reads {short_repr(there)}, not "
                f"{short_repr(text)}; expected characters counted from 0: {remedy}"
            )
