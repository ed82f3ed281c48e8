"""Formulas of a task's metrics, in numpy: accuracy, F1, correlations, spans of tags, answers to questions.

`evaluation/task_runs.py` has those of GLUE and SQuAD as modules of `evaluate`, `distillation/task_scores.py`
measures held-out batches by them. `tests/tasks/test_metrics.py` holds them equal to scikit-learn's and SciPy's.

Shapes: R rows or words, C classes or values.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(given_R: np.ndarray, wanted_R: np.ndarray) -> float:
    """Share of rows whose class is the right one."""
    return float(np.mean(given_R == wanted_R))


def f1(num_right: Any, num_given: Any, num_wanted: Any) -> Any:
    """Harmonic mean of right / given and right / wanted, in [0, 1]; 0 where nothing is given and nothing wanted."""
    return 2 * num_right / np.maximum(1, num_given + num_wanted)


def class_f1(given_R: np.ndarray, wanted_R: np.ndarray, label: Any = 1) -> float:
    """F1 of one class."""
    is_given, is_wanted = given_R == label, wanted_R == label
    return float(f1(np.sum(is_given & is_wanted), is_given.sum(), is_wanted.sum()))


def macro_f1(given_R: np.ndarray, wanted_R: np.ndarray) -> float:
    """Mean F1 of the classes that are given or wanted, in [0, 1].

    Example:
    ```python
    >>> macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.73...

    ```
    """
    return float(np.mean([class_f1(given_R, wanted_R, label) for label in np.union1d(given_R, wanted_R)]))


def several_label_scores(logits_RC: np.ndarray, wanted_RC: np.ndarray) -> dict[str, float]:
    """`micro_f1` and `macro_f1` of labels that hold at a probability above 0.5, and `exact_rows`, all of them right.

    A class that no row has and none gets leaves `macro_f1` as it is.
    """
    given, wanted = logits_RC > 0, wanted_RC > 0.5
    right_C, given_C, wanted_C = (given & wanted).sum(0), given.sum(0), wanted.sum(0)
    is_there_C = given_C + wanted_C > 0
    return {
        "micro_f1": float(f1(right_C.sum(), given_C.sum(), wanted_C.sum())),
        "macro_f1": float(np.mean(f1(right_C, given_C, wanted_C)[is_there_C])) if is_there_C.any() else 0.0,
        "exact_rows": float(np.mean((given == wanted).all(-1))),
    }


def matthews_correlation(given_R: np.ndarray, wanted_R: np.ndarray) -> float:
    """Correlation of classes, in [-1, 1], of two or more; 0 where all rows have one class (Gorodkin 2004)."""
    labels = np.union1d(given_R, wanted_R)
    given_C, wanted_C = ((side[:, None] == labels).sum(0).astype(np.float64) for side in (given_R, wanted_R))
    num_rows = len(given_R)
    # covariances of one-hot rows, times num_rows²
    both = np.sum(given_R == wanted_R) * num_rows - given_C @ wanted_C
    scale = (num_rows**2 - given_C @ given_C) * (num_rows**2 - wanted_C @ wanted_C)
    return float(both / np.sqrt(scale)) if scale > 0 else 0.0


def pearson(given_R: np.ndarray, wanted_R: np.ndarray) -> float:
    """Correlation in [-1, 1]; 0 where either side is constant, NaN where a value is."""
    if np.ptp(given_R) == 0 or np.ptp(wanted_R) == 0:
        return 0.0  # undefined, and JSON has no NaN
    return float(np.corrcoef(given_R, wanted_R)[0, 1])


def spearman(given_R: np.ndarray, wanted_R: np.ndarray) -> float:
    """Correlation of ranks, in [-1, 1]; 0 where either side is constant, NaN where a value is."""
    if np.isnan(given_R).any() or np.isnan(wanted_R).any():
        return float("nan")  # NaN would have a rank
    return pearson(_ranks(given_R), _ranks(wanted_R))


def correlations(given_RC: np.ndarray, wanted_RC: np.ndarray) -> dict[str, float]:
    """`pearson` and `spearman`, averaged over the values; 0 for constants."""
    pairs = list(zip(given_RC.T, wanted_RC.T, strict=True))
    return {formula.__name__: float(np.mean([formula(*pair) for pair in pairs])) for formula in (pearson, spearman)}


def _ranks(values_R: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place_R, counts = np.unique(values_R, return_inverse=True, return_counts=True)
    # n equal values share the ranks end − n … end − 1
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[place_R]


def average_precision(scores_R: np.ndarray, wanted_R: np.ndarray) -> float:
    """Mean precision at the ranks of rows labelled 1, in [0, 1]; 0 without such rows. Equal scores share a rank."""
    order = np.argsort(-np.asarray(scores_R), kind="stable")
    right_R = np.cumsum(np.asarray(wanted_R)[order] == 1)
    # only at the last of equal scores
    ends = np.flatnonzero(np.append(np.diff(np.asarray(scores_R)[order]) != 0, True))
    gained = np.diff(right_R[ends], prepend=0)
    return float(np.sum(gained * (right_R[ends] / (ends + 1))) / max(1, right_R[-1]))


def are_span_tags(names: Sequence[str]) -> bool:
    """Whether classes of words mark spans: `B-PER`, `I-PER`, `O`."""
    return any(name[:2] in ("B-", "I-") for name in names)


def span_scores(
    given_R: np.ndarray, wanted_R: np.ndarray, names: Sequence[str], *, ends_R: np.ndarray
) -> dict[str, float]:
    """Precision, recall and F1 of whole spans, in [0, 1]: one is right where both its ends and its type are.

    Args:
        given_R: predicted classes of words, row after row.
        wanted_R: the right ones.
        names: of the classes. A span begins at `B-`, or at an `I-` of another type than the word before; any other
            name (`E-`, `S-`, `L-`, `U-`) goes on or begins like `I-` and `B-`.
        ends_R: whether a word is the last of its row.

    Example:
    ```python
    >>> names = ["O", "B-PER", "I-PER"]
    >>> given, wanted = np.array([1, 2, 0, 1]), np.array([1, 2, 0, 0])
    >>> span_scores(given, wanted, names, ends_R=np.array([False, False, False, True]))
    {'span_f1': 0.66..., 'span_precision': 0.5, 'span_recall': 1.0}

    ```
    """
    rows = np.flatnonzero(ends_R) + 1
    given, wanted = (
        {
            (row, *span)
            for row, classes in enumerate(np.split(classes_R, rows))
            for span in spans_of(names[number] for number in classes)
        }
        for classes_R in (given_R, wanted_R)
    )
    num_right = len(given & wanted)
    return {
        "span_f1": float(f1(num_right, len(given), len(wanted))),
        "span_precision": num_right / max(1, len(given)),
        "span_recall": num_right / max(1, len(wanted)),
    }


def spans_of(tags: Iterable[str]) -> Iterator[tuple[int, int, str]]:
    """First word, last word and type of each span in a row."""
    first, open_type = 0, ""
    for place, tag in enumerate((*tags, "")):
        mark, _, kind = tag.partition("-")
        # B-, S- and U- always begin a span, other marks where the type changes
        begins = bool(kind) and (mark in "BSU" or kind != open_type)
        # the word before was its span's last
        if open_type and (begins or not kind):
            yield first, place - 1, open_type
        if begins:
            first = place
        open_type = kind


def normalize_answer(text: str) -> str:
    """Lower-case a text and remove ASCII punctuation, English articles and superfluous white space, in this order.

    Example:
    ```python
    >>> normalize_answer("The  Beyoncé (an artist)!")
    'beyoncé artist'

    ```
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, golds: Sequence[str]) -> float:
    """1 where the normalised prediction is one of the normalised right answers, at least one; else 0."""
    return float(normalize_answer(prediction) in {normalize_answer(gold) for gold in golds})


def token_f1(prediction: str, golds: Sequence[str], *, both_empty: float = 1.0) -> float:
    """F1 of normalised words, in [0, 1]; the best right answer counts (Rajpurkar et al. 2016).

    `both_empty` is the score where both are empty once normalised: 1 in v2.0, where empty means "no answer"; 0 in
    v1.1.

    Example:
    ```python
    >>> token_f1("the cat sat", ["a dog", "a cat sat down here"])
    0.66...

    ```
    """
    given, scores = Counter(normalize_answer(prediction).split()), []
    for gold in golds:
        wanted = Counter(normalize_answer(gold).split())
        score = f1((given & wanted).total(), given.total(), wanted.total())
        scores.append(float(score) if given or wanted else both_empty)
    return max(scores)


def best_threshold(
    scores: np.ndarray, no_answer_probabilities: np.ndarray, *, has_answer: np.ndarray, is_answered: np.ndarray
) -> tuple[float, float]:
    """Find the best probability above which "no answer" is predicted, by a sweep over all probabilities.

    The sweep starts with no question answered. It answers questions by rising probability of no answer, equal ones in
    the order given. Then a question that has an answer adds its score. A question that has none loses its point if
    the model's answer isn't empty.

    Args:
        scores: float `(N,)`, each question's score if the model's answer is given, in [0, 1].
        no_answer_probabilities: float `(N,)`, the model's belief that there is no answer, in [0, 1].
        has_answer: bool `(N,)`, whether there is one.
        is_answered: bool `(N,)`, whether the model's answer is not empty.

    Returns:
        `tuple[float, float]`: the best mean score, in [0, 1], and the first threshold that reaches this score; 0 where
        it is best to answer nothing.
    """
    # totals[n]: score with the first n questions of the order answered; all questions without an answer count at 0.
    order = np.argsort(no_answer_probabilities, kind="stable")
    gains = np.where(has_answer, scores, -np.asarray(is_answered, dtype=np.float64))[order]
    totals = np.cumsum([np.count_nonzero(~has_answer), *gains])
    best = int(np.argmax(totals))
    threshold = 0.0 if best == 0 else float(no_answer_probabilities[order[best - 1]])
    return float(totals[best]) / len(scores), threshold
