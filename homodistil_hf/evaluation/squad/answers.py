"""A model's logits over the windows of a question → its answer, and the probability that there is none.

The score of a span is the logit of its first token as a start plus that of its last token as an end. `windows.py` cuts
contexts, `metrics.py` grades.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .windows import Window


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

    A text that several windows hold counts with its best score. "No answer" counts with its lowest: a window without
    the answer scores it high, so one window with the answer is enough.

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
