"""Scores of pairs of texts: compares a student's with its teacher's, without human labels.

Shapes: M pairs.
"""

from collections.abc import Callable

import torch

from ...distillation.discrepancy import DiscrepancyMeter
from ...distillation.tasks import Task


def score_terms(
    student_M1: torch.Tensor, teacher_M1: torch.Tensor, signs_M1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The probe that scores units, and the squared error of the scores.

    Args:
        student_M1: logits.
        teacher_M1: logits, without gradients.
        signs_M1: random, +1 or −1.

    Returns:
        `(Σ v·s, Σ (s − t)²)`: at the start of a run the second has no gradient, so units are scored by the first.
    """
    student, teacher, signs = (rows.float() for rows in (student_M1, teacher_M1, signs_M1))
    return (signs * student).sum(), (student - teacher).square().sum()


RERANKING = Task("probe", terms=score_terms, has_classes=False)
"""The task of a reranker: labels are signs, a row each."""


class ScoreMeter(DiscrepancyMeter):
    """Sums over held-out pairs; arguments as [`DiscrepancyMeter`]."""

    num_sums = 8

    def batch_sums(
        self, rows: torch.Tensor, teacher_rows: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Squared error, and the moments of both models' scores; see [`DiscrepancyMeter.batch_sums`]."""
        own, theirs = (each.float().cpu().double().flatten() for each in (rows, teacher_rows))
        error = (own - theirs).square().sum()
        zero, count = torch.zeros_like(error), error.new_full((), len(own))
        moments = own.sum(), theirs.sum(), own.square().sum(), theirs.square().sum()
        return error, (own * theirs).sum(), zero, count, *moments

    def results(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums) -> dict[str, float]:
        """`probe_loss`, the mean squared error of the scores, and `correlation` with the teacher's, in [-1, 1]."""
        error, products, _, count, own, theirs, own_squares, their_squares = reduce(self.sums).tolist()
        if count == 0:
            return {}
        covariance = products / count - own * theirs / count**2
        variances = own_squares / count - (own / count) ** 2, their_squares / count - (theirs / count) ** 2
        scale = max(variances[0] * variances[1], 1e-24) ** 0.5
        return {"probe_loss": error / count, "correlation": covariance / scale}
