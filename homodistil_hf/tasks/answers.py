"""Answers to questions: the best spans over all windows of a context, and their grades, exact match and F1.

The score of a span is the start logit of its first token plus the end logit of its last token. Formulas: Rajpurkar et
al. 2016, 2018.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.heads import logits_of_rows
from .metrics import IS_CONSTANT, exact_match, normalize_answer, token_f1
from .questions import Window, WindowSizes, windows_in_batches

logger = logging.getLogger(__name__)

EVEN = 0.5  # at this probability "no answer" and the best span have the same score


@dataclass(frozen=True)
class RankedAnswers:
    """Different answers, the likeliest first, with their scores, and the score of "no answer"."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    null_score: float

    @property
    def text(self) -> str:
        """The likeliest answer; empty where no window has a span."""
        return self.texts[0] if self.texts else ""

    @property
    def no_answer_probability(self) -> float:
        """Probability of "no answer" against the likeliest one: 1 / (1 + exp(score - null score)), in [0, 1]."""
        best = self.scores[0] if self.scores else -np.inf
        # 1 / (1 + eˣ) = exp(-log(1 + eˣ)), which doesn't overflow
        return float(np.exp(-np.logaddexp(0.0, best - self.null_score)))


def rank_answers(
    context: str,
    windows: Sequence[Window],
    logits: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    max_answer_tokens: int = 30,
    num_best: int = 20,
) -> RankedAnswers:
    """Find the best spans over all windows of one question.

    A text that several windows hold counts with its best score. "No answer" counts with its lowest score, because
    every window without the answer scores it high; one window with the answer is enough.

    Args:
        context: the characters that the windows' offsets count.
        windows: all windows of the question.
        logits: for each window, float `(T,)` of starts and of ends, T at least the tokens of the window.
        max_answer_tokens: longest answer, in tokens.
        num_best: spans of each window that compete, and answers that are returned, at most.

    Example:
    ```python
    >>> words = np.array([[0, 3], [4, 7], [8, 11]])
    >>> window = Window(inputs={}, row=0, cls_index=0, first_token=1, offsets=words)
    >>> starts, ends = np.array([1.0, 0.0, 5.0, 0.0]), np.array([1.0, 0.0, 0.0, 4.0])
    >>> ranked = rank_answers("one two six", [window], [(starts, ends)])
    >>> ranked.text, ranked.scores[0], ranked.null_score
    ('two six', 9.0, 2.0)

    ```
    """
    best: dict[str, float] = {}
    for window, (starts, ends) in zip(windows, logits, strict=True):
        for first, last, score in _best_spans(window, starts, ends, max_answer_tokens, num_best):
            text = context[window.offsets[first, 0] : window.offsets[last, 1]].strip()
            best[text] = max(score, best.get(text, -np.inf))
    # a span of white space alone is no answer
    best.pop("", None)
    ranked = sorted(best.items(), key=lambda item: -item[1])[:num_best]
    null_scores = [
        float(starts[window.cls_index]) + float(ends[window.cls_index])
        for window, (starts, ends) in zip(windows, logits, strict=True)
    ]
    return RankedAnswers(tuple(text for text, _ in ranked), tuple(score for _, score in ranked), min(null_scores))


def _best_spans(
    window: Window, starts: np.ndarray, ends: np.ndarray, max_answer_tokens: int, num_best: int
) -> list[tuple[int, int, float]]:
    """First token, last token and score of the best of all spans, not only of those between best starts and ends."""
    num_tokens = len(window.offsets)
    if num_tokens == 0:
        return []
    tokens = slice(window.first_token, window.first_token + num_tokens)
    num_lengths = min(max_answer_tokens, num_tokens)
    # scores[first, extra]: of the span from `first` to `first + extra`; -inf beyond the context.
    scores = np.full((num_tokens, num_lengths), -np.inf)
    for extra in range(num_lengths):
        last = num_tokens - extra
        scores[:last, extra] = starts[tokens][:last].astype(np.float64) + ends[tokens][extra:]
    order = np.argsort(-scores, axis=None, kind="stable")[:num_best]
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
    golds = [[text for text in answers["text"] if normalize_answer(text)] for answers in questions["answers"]]
    may_be_none = not all(golds)
    ranked = answer_questions(model, questions, tokenizer, WindowSizes.within(max_length))
    texts = ["" if may_be_none and one.no_answer_probability > EVEN else one.text for one in ranked]
    if may_be_none and not any(texts):
        logger.warning("none of %d held-out questions gets an answer: this model has learned nothing", len(ranked))
    rows = [(text, gold or [""]) for text, gold in zip(texts, golds, strict=True)]
    both_empty = float(may_be_none)
    grades = {
        "f1": 100 * float(np.mean([token_f1(*row, both_empty=both_empty) for row in rows])),
        "exact_match": 100 * float(np.mean([exact_match(*row) for row in rows])),
    }
    return grades | ({} if any(texts) and any(golds) else {IS_CONSTANT: True})


def answer_questions(
    model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase, sizes: WindowSizes, **limits: int
) -> list[RankedAnswers]:
    """Let any `AutoModelForQuestionAnswering` answer, in evaluation mode and float32.

    Memory: the windows and logits of 1,000 questions, 8 bytes of logits a token of a window, on the host.

    Raises:
        FloatingPointError: logits are not finite.
    """
    ranked = []
    for batch, windows in windows_in_batches(rows.to_list(), tokenizer, sizes):
        inputs = [dict(window.inputs) for window in windows]
        logits_T = [
            (starts.numpy(), ends.numpy())
            for starts, ends in logits_of_rows(model, inputs, tokenizer, "start_logits", "end_logits")
        ]
        found = zip(windows, logits_T, strict=True)
        # the windows of a question follow each other
        for row, of_row in groupby(found, key=lambda pair: pair[0].row):
            of_windows, logits = zip(*of_row, strict=True)
            ranked.append(rank_answers(batch[row]["context"], of_windows, logits, **limits))
    return ranked
