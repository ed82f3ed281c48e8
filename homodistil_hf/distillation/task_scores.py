"""The meter that measures a task's own metrics on held-out batches, by the formulas of `tasks/metrics.py`.

`tasks/questions.py` grades answers to questions, by whole rows. Shapes: R predictions, C classes or values.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..tasks.metrics import are_span_tags, correlations, macro_f1, several_label_scores, span_scores
from .discrepancy import DiscrepancyMeter
from .losses import multi_label_terms
from .tasks import ONE_A_TOKEN, Inputs, Task

logger = logging.getLogger(__name__)

Gather = Callable[[Any], list[Any]]
"""Value of this process → values of all ranks."""


class TaskMeter(DiscrepancyMeter):
    """Also counts known labels and predictions that are the teacher's, and keeps predictions for the task's metrics.

    Args:
        task: the student's kind of prediction.
        names: of its classes, by number.
        whose: whose predictions they are, for messages.
    """

    num_sums = 6

    def __init__(self, task: Task, names: Sequence[str] = (), *, whose: str = "this model"):
        super().__init__(task)
        self.names, self.whose = names, whose
        self.kept: list[np.ndarray] = []
        self.num_rows = 0

    def batch_sums(
        self, rows: torch.Tensor, teacher_rows: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Append known labels and equal predictions; see [`DiscrepancyMeter.batch_sums`]."""
        num_known = self.task.num_known(labels)
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
            self.kept.append(torch.stack([self.task.activation(rows.float()), labels.float()], 1).cpu().numpy())
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
            results[f"{self.task.name}_loss"] = loss / num_known
        if num_known and self.task.has_classes:
            results[f"{self.task.name}_accuracy"] = correct / num_known
        return results | ({} if self._has_values else {"agreement": equal / count})

    def scores(self, gather: Gather = lambda value: [value]) -> dict[str, float]:
        """The task's own metrics of all measured rows whose labels are known; collective."""
        ranks = gather(self.kept)
        parts = [part for of_rank in ranks for part in of_rank]
        if not parts:
            return {}
        if not self.task.has_classes:  # (R, 2, C) → predictions and labels
            given_RC, wanted_RC = np.moveaxis(np.concatenate(parts), 1, 0)
            is_known_R = self.task.is_known(torch.tensor(wanted_RC)).all(-1).numpy()
            score = correlations if self._has_values else several_label_scores
            return score(given_RC[is_known_R], wanted_RC[is_known_R]) if is_known_R.any() else {}
        # rows of two ranks may have one number
        parts = [part + np.array([0, 0, rank << 40]) for rank, of_rank in enumerate(ranks) for part in of_rank]
        given_R, wanted_R, row_R = self.known_classes(parts)
        if not len(given_R):
            return {}
        # answers are there without labels, too
        every_R, has_one_label = np.concatenate(parts)[:, 0], bool((wanted_R == wanted_R[0]).all())
        self.is_constant = has_one_label or bool((every_R == every_R[0]).all())
        if len(every_R) > 1 and self.is_constant and not has_one_label:
            logger.warning(
                "all %d held-out predictions of %s are of one class: it has learned nothing", len(every_R), self.whose
            )
        # a row ends where the next word has another row's number
        if self.task.num_values == ONE_A_TOKEN and are_span_tags(self.names):
            return span_scores(given_R, wanted_R, self.names, ends_R=np.diff(row_R, append=-1) != 0)
        return {"macro_f1": macro_f1(given_R, wanted_R)}

    def known_classes(self, parts: list[np.ndarray]) -> np.ndarray:
        """Given and wanted classes and numbers of rows, `(3, R)`, where the label is known; `parts` as in `kept`."""
        return np.concatenate([part[self.task.is_known(torch.tensor(part[:, 1])).numpy()] for part in parts]).T

    @property
    def _has_values(self) -> bool:
        return not self.task.has_classes and self.task.terms is not multi_label_terms
