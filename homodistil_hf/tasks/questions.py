"""Questions with their contexts → windows of tokens, the best spans over all windows, and their grades, F1 and match.

A context that is too long for one window of tokens is cut into several windows that overlap. The score of a span is
the start logit of its first token plus the end logit of its last token. Formulas: Rajpurkar et al. 2016, 2018.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..files.messages import short_repr
from ..files.strict_json import fits
from ..models.heads import logits_of_rows
from .kinds import IS_CONSTANT
from .metrics import exact_match, normalize_answer, token_f1

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
EVEN = 0.5  # at this probability "no answer" and the best span have the same score
_QUESTIONS_AT_ONCE = 1000
WINDOW_LENGTH = 384
"""Tokens of a window, unless a model reads fewer."""
_SHARED_TOKENS, _QUESTION_TOKENS = 128, 64  # that two windows share, and of a question
_ANSWER_TOKENS, _NUM_SPANS = 30, 20  # of an answer at most, and of a window that compete, as some may be blank
QUESTION_FEATURES = Features(
    {
        **dict.fromkeys(("id", "context", "question"), Value("string")),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
    }
)
"""SQuAD's columns."""


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


def make_windows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, length: int) -> list[Window]:
    """Cut questions with their contexts into windows: those of the first row, of the second, …; at least one each.

    Args:
        rows: in SQuAD's columns.
        tokenizer: of the model.
        length: tokens of a window at most; a third at most for the question, and for what two windows share.

    Raises:
        ValueError: no fast tokenizer, no token for the beginning, or no room for more context than windows share.
    """
    name, shared, most = type(tokenizer).__name__, min(_SHARED_TOKENS, length // 3), min(_QUESTION_TOKENS, length // 3)
    if not tokenizer.is_fast:
        raise ValueError(f"tokenizer={name} has no offsets; expected a fast one, with a tokenizer.json")
    if tokenizer.cls_token_id is None:
        raise ValueError(f"tokenizer={name} has no cls_token, which stands for no answer; set tokenizer.cls_token")
    # windows that hold no more than what they share would not advance
    if length <= most + tokenizer.num_special_tokens_to_add(pair=True) + shared:
        raise ValueError(f"max_length={length} holds no context beside a question; expected 16 or more")
    questions = [row["question"].strip() for row in rows]
    places = tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    encoded = tokenizer(
        # cut in characters, behind the last token that is read
        [
            question if len(offsets) <= most else question[: offsets[most - 1][1]]
            for question, offsets in zip(questions, places, strict=True)
        ],
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=length,
        stride=shared,
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
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, length: int
) -> Iterator[tuple[Sequence[Row], list[Window]]]:
    """A thousand rows at once with their windows, as the windows of all rows would be in memory."""
    for first in range(0, len(rows), _QUESTIONS_AT_ONCE):
        batch = rows[first : first + _QUESTIONS_AT_ONCE]
        yield batch, make_windows(batch, tokenizer, length)


def labelled_inputs(window: Window, row: Row) -> dict[str, Any]:
    """A window's inputs, with `start_positions` and `end_positions` of the first right answer: of `[CLS]` for none."""
    start, end = window.cls_index, window.cls_index
    answers = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    if first := next(((text, begin) for text, begin in answers if text.strip()), None):
        # white space around an answer belongs to no token
        text, begin = first
        begin += len(text) - len(text.lstrip())
        start, end = window.tokens_of(begin, begin + len(text.strip()))
    return {**window.inputs, "start_positions": start, "end_positions": end}


def check_answers(answers: Any, context: str, label: str) -> None:
    """Refuse, by a ValueError that begins with `label`, answers that aren't at their `answer_start` in a context."""
    remedy = "correct or drop the row"
    is_read = fits(answers, {"text": [str], "answer_start": [int]})
    if not is_read or len(answers["text"]) != len(answers["answer_start"]):
        raise ValueError(
            f"{label} has answers={short_repr(answers)}; expected the lists text and answer_start, without empty "
            f"entries, one for each: {remedy}"
        )
    for text, start in zip(answers["text"], answers["answer_start"], strict=True):
        there = context[max(0, start) : max(0, start) + len(text)]
        if start < 0 or there != text:
            raise ValueError(
                f"{label} has answer_start={start}, where the context reads {short_repr(there)}, not "
                f"{short_repr(text)}; expected characters counted from 0: {remedy}"
            )


# Answers: the best spans over all windows of a context, and their grades


@dataclass(frozen=True)
class Answer:
    """The likeliest answer and its score, empty and -inf where no window has a span; and the score of "no answer"."""

    text: str
    score: float
    null_score: float

    @property
    def no_answer_probability(self) -> float:
        """Probability of "no answer" against the likeliest one: 1 / (1 + exp(score - null score)), in [0, 1]."""
        # 1 / (1 + eˣ) = exp(-log(1 + eˣ)), which doesn't overflow
        return float(np.exp(-np.logaddexp(0.0, self.score - self.null_score)))


def best_answer(context: str, windows: Sequence[Window], logits: Sequence[tuple[np.ndarray, np.ndarray]]) -> Answer:
    """Find the best span over all windows of one question.

    "No answer" counts with its lowest score, because every window without the answer scores it high; one window with
    the answer is enough.

    Args:
        context: the characters that the windows' offsets count.
        windows: all windows of the question.
        logits: for each window, float `(T,)` of starts and of ends, T at least the tokens of the window.

    Example:
    ```python
    >>> words = np.array([[0, 3], [4, 7], [8, 11]])
    >>> window = Window(inputs={}, row=0, cls_index=0, first_token=1, offsets=words)
    >>> starts, ends = np.array([1.0, 0.0, 5.0, 0.0]), np.array([1.0, 0.0, 0.0, 4.0])
    >>> best_answer("one two six", [window], [(starts, ends)])
    Answer(text='two six', score=9.0, null_score=2.0)

    ```
    """
    best, null_scores = ("", -np.inf), []
    for window, (starts, ends) in zip(windows, logits, strict=True):
        for first, last, score in _best_spans(window, starts, ends):
            text = context[window.offsets[first, 0] : window.offsets[last, 1]].strip()
            # a span of white space alone is no answer
            if text and score > best[1]:
                best = text, score
        null_scores.append(float(starts[window.cls_index]) + float(ends[window.cls_index]))
    return Answer(*best, min(null_scores))


def _best_spans(window: Window, starts: np.ndarray, ends: np.ndarray) -> list[tuple[int, int, float]]:
    """First token, last token and score of the best of all spans, not only of those between best starts and ends."""
    num_tokens = len(window.offsets)
    if num_tokens == 0:
        return []
    tokens = slice(window.first_token, window.first_token + num_tokens)
    num_lengths = min(_ANSWER_TOKENS, num_tokens)
    # scores[first, extra]: of the span from `first` to `first + extra`; -inf beyond the context.
    scores = np.full((num_tokens, num_lengths), -np.inf)
    for extra in range(num_lengths):
        last = num_tokens - extra
        scores[:last, extra] = starts[tokens][:last].astype(np.float64) + ends[tokens][extra:]
    order = np.argsort(-scores, axis=None, kind="stable")[:_NUM_SPANS]
    firsts, extras = np.unravel_index(order, scores.shape)
    spans = [(int(f), int(f + e), float(scores[f, e])) for f, e in zip(firsts, extras, strict=True)]
    return [span for span in spans if span[2] > -np.inf]


def answer_grades(
    model: PreTrainedModel, questions: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, float]:
    """`f1` and `exact_match` of a model's answers, in percent; of SQuAD 2.0 where a question has none.

    Args:
        model: answers questions.
        questions: with answers, in SQuAD's columns.
        tokenizer: of the model.
        max_length: tokens of a window.
    """
    given = [[text for text in answers["text"] if text.strip()] for answers in questions["answers"]]
    may_be_none = not all(given)
    # answers such as "%", of which nothing is left to compare, are right where nothing else is; so SQuAD grades them
    golds = [[text for text in texts if normalize_answer(text)] for texts in given] if may_be_none else given
    answers = answer_questions(model, questions, tokenizer, max_length)
    texts = ["" if may_be_none and one.no_answer_probability > EVEN else one.text for one in answers]
    if may_be_none and not any(texts):
        logger.warning("none of %d held-out questions gets an answer: this model has learned nothing", len(answers))
    rows = [(text, gold or [""]) for text, gold in zip(texts, golds, strict=True)]
    both_empty = float(may_be_none)
    grades = {
        "f1": 100 * float(np.mean([token_f1(*row, both_empty=both_empty) for row in rows])),
        "exact_match": 100 * float(np.mean([exact_match(*row) for row in rows])),
    }
    return grades | ({} if any(texts) and any(golds) else {IS_CONSTANT: True})


def answer_questions(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, length: int
) -> list[Answer]:
    """Let any `AutoModelForQuestionAnswering` answer by windows of `length` tokens, in evaluation mode and float32.

    Memory: the windows and logits of 1,000 questions, 8 bytes of logits a token of a window, on the host.

    Raises:
        FloatingPointError: logits are not finite.
    """
    answers = []
    for batch, windows in windows_in_batches(rows.to_list(), tokenizer, length):
        inputs = [dict(window.inputs) for window in windows]
        logits_T = [
            (starts.numpy(), ends.numpy())
            for starts, ends in logits_of_rows(model, inputs, tokenizer, "start_logits", "end_logits")
        ]
        found = zip(windows, logits_T, strict=True)
        # the windows of a question follow each other
        for row, of_row in groupby(found, key=lambda pair: pair[0].row):
            of_windows, logits = zip(*of_row, strict=True)
            answers.append(best_answer(batch[row]["context"], of_windows, logits))
    return answers
