"""A task's own metrics, and the meter that measures them on held-out rows: F1 of classes and spans, correlations.

Answers to questions are graded by whole rows, which evaluation/squad.py does. Shapes: R predictions, C classes or
values.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from .discrepancy import DiscrepancyMeter
from .tasks import ONE_A_TOKEN, Inputs, Task

logger = logging.getLogger(__name__)

Gather = Callable[[Any], list[Any]]
"""Value of this process → values of all ranks."""


class TaskMeter(DiscrepancyMeter):
    """Also counts known labels and predictions that are the teacher's, and keeps predictions for the task's metrics.

    Args:
        task: the student's kind of prediction.
        names: of its classes, by number.
    """

    num_sums = 6

    def __init__(self, task: Task, names: Sequence[str] = ()):
        super().__init__(task)
        self.names = names
        self.kept: list[np.ndarray] = []
        self.num_rows = 0

    def batch_sums(
        self, rows: torch.Tensor, teacher_rows: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Append known labels and equal predictions; see [`DiscrepancyMeter.batch_sums`]."""
        # a row of several labels is known where all of them are
        is_known = self.task.is_known(labels)
        num_known = is_known.all(-1).sum() if is_known.dim() > 1 else is_known.sum()
        if self.task.has_classes:
            equal = rows.argmax(-1) == teacher_rows.argmax(-1)
        else:  # of several labels a row counts where all are the same; values are never equal
            equal = ((rows > 0) == (teacher_rows > 0)).all(-1)
        return *super().batch_sums(rows, teacher_rows, labels), num_known, equal.sum()

    def keep(self, rows: torch.Tensor, labels: torch.Tensor, inputs: Inputs) -> None:
        """Note predictions and labels: of classes `(R, 3)` with the number of the row, of values `(R, 2, C)`."""
        if self.task.points:
            return
        if not self.task.has_classes:
            self.kept.append(torch.stack([rows.float(), labels.float()], 1).cpu().numpy())
            return
        num_rows, num_tokens = inputs["input_ids"].shape[:2]
        # place among the batch's labels → row of the batch → row of all that was measured
        row_of = inputs["masked_positions"] // (num_tokens if self.task.num_values == ONE_A_TOKEN else 1)
        self.kept.append(torch.stack([rows.argmax(-1), labels, row_of + self.num_rows], -1).cpu().numpy())
        self.num_rows += num_rows

    def results(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums) -> dict[str, float]:
        """As [`DiscrepancyMeter.results`], with `agreement` with the teacher; averages of labels are over known ones.

        Without known labels there is neither loss nor accuracy, and a regression has no agreement.
        """
        loss, kl, correct, count, num_known, equal = reduce(self.sums).tolist()
        if count == 0:
            return {}
        results = {"kl": kl / count}
        if num_known:
            results["task_loss"] = loss / num_known
        if num_known and self.task.has_classes:
            results["task_accuracy"] = correct / num_known
        return results | ({} if self._has_values else {"agreement": equal / count})

    def scores(self, gather: Gather = lambda value: [value]) -> dict[str, float]:
        """The task's own metrics of all measured rows whose labels are known; collective."""
        ranks = gather(self.kept)
        parts = [part for of_rank in ranks for part in of_rank]
        if not parts:
            return {}
        if self.task.has_classes:  # rows of two ranks may have one number
            parts = [part + np.array([0, 0, rank << 40]) for rank, of_rank in enumerate(ranks) for part in of_rank]
        else:
            # (R, 2, C) → predictions and labels
            given_RC, wanted_RC = np.moveaxis(np.concatenate(parts), 1, 0)
            is_known_R = self.task.is_known(torch.tensor(wanted_RC)).all(-1).numpy()
            score = correlations if self._has_values else several_label_scores
            return score(given_RC[is_known_R], wanted_RC[is_known_R]) if is_known_R.any() else {}
        return self._class_scores(parts)

    @property
    def _has_values(self) -> bool:
        return not self.task.has_classes and self.task.label_range != (0, 1)

    def _class_scores(self, parts: list[np.ndarray]) -> dict[str, float]:
        found = [part[self.task.is_known(torch.tensor(part[:, 1])).numpy()] for part in parts]
        given_R, wanted_R, row_R = np.concatenate(found).T
        if not len(given_R):
            return {}
        if len(given_R) > 1 and (given_R == given_R[0]).all() and (wanted_R != wanted_R[0]).any():
            logger.warning(
                "all %d held-out predictions are of one class: this model has learned nothing", len(given_R)
            )
        # a row ends where the next word has another row's number
        if self.task.num_values == ONE_A_TOKEN and are_span_tags(self.names):
            return span_scores(given_R, wanted_R, self.names, ends_R=np.diff(row_R, append=-1) != 0)
        return {"macro_f1": class_scores(given_R, wanted_R)["macro_f1"]}


def class_scores(given_R: np.ndarray, wanted_R: np.ndarray) -> dict[str, float]:
    """`accuracy`, and `macro_f1`, the mean F1 of the classes that are given or wanted; both in [0, 1].

    Example:
    ```python
    >>> class_scores(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    {'accuracy': 0.75, 'macro_f1': 0.73...}

    ```
    """
    shares = []
    # F1 = 2·both / (given + wanted)
    for label in np.union1d(given_R, wanted_R):
        both = np.sum((given_R == label) & (wanted_R == label))
        shares.append(2 * both / (np.sum(given_R == label) + np.sum(wanted_R == label)))
    return {"accuracy": float(np.mean(given_R == wanted_R)), "macro_f1": float(np.mean(shares))}


def several_label_scores(logits_RC: np.ndarray, wanted_RC: np.ndarray) -> dict[str, float]:
    """`micro_f1` and `macro_f1` of labels that hold at a probability above 0.5, and `exact_rows`, all of them right.

    A class that no row has and none gets leaves `macro_f1` as it is.
    """
    given, wanted = logits_RC > 0, wanted_RC > 0.5
    # F1 of a class = 2·both / (given + wanted)
    both, either = (given & wanted).sum(0), given.sum(0) + wanted.sum(0)
    is_there = either > 0
    return {
        "micro_f1": float(2 * both.sum() / max(1, either.sum())),
        "macro_f1": float(np.mean(2 * both[is_there] / either[is_there])) if is_there.any() else 0.0,
        "exact_rows": float(np.mean((given == wanted).all(-1))),
    }


def correlations(given_RC: np.ndarray, wanted_RC: np.ndarray) -> dict[str, float]:
    """Correlations in [-1, 1] `pearson` and, of ranks, `spearman`, averaged over the values; 0 for constants."""
    pairs = list(zip(given_RC.T, wanted_RC.T, strict=True))
    return {
        "pearson": float(np.mean([_correlation(given, wanted) for given, wanted in pairs])),
        "spearman": float(np.mean([_correlation(_ranks(given), _ranks(wanted)) for given, wanted in pairs])),
    }


def _correlation(given_R: np.ndarray, wanted_R: np.ndarray) -> float:
    if np.ptp(given_R) == 0 or np.ptp(wanted_R) == 0:
        return 0.0
    return float(np.corrcoef(given_R, wanted_R)[0, 1])


def _ranks(values_R: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place_R, counts = np.unique(values_R, return_inverse=True, return_counts=True)
    # n equal values share the ranks end − n … end − 1
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[place_R]


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
    given, wanted = (set(_spans(classes, names, ends_R)) for classes in (given_R, wanted_R))
    both = len(given & wanted)
    return {
        "span_f1": 2 * both / max(1, len(given) + len(wanted)),
        "span_precision": both / max(1, len(given)),
        "span_recall": both / max(1, len(wanted)),
    }


def _spans(classes_R: np.ndarray, names: Sequence[str], ends_R: np.ndarray) -> Iterator[tuple[int, int, str]]:
    """First word, last word and type of each span."""
    first, open_type = 0, ""
    for place, (number, is_last) in enumerate(zip(classes_R, ends_R, strict=True)):
        mark, _, kind = names[number].partition("-")
        # B-, S- and U- always begin a span, other marks where the type changes
        begins = bool(kind) and (mark in "BSU" or kind != open_type)
        # the word before was its span's last
        if open_type and (begins or not kind):
            yield first, place - 1, open_type
        if begins:
            first = place
        open_type = kind
        # no span goes on into the next row
        if kind and is_last:
            yield first, place, kind
            open_type = ""
