"""Rerankers, which sentence-transformers calls cross-encoders: a narrower model of pairs that scores as its teacher.

The student starts as its teacher, so the error of its scores has no gradient. So units are scored by the gradient of a
probe, Σ_b v_b·s_b, with a random sign v_b for each pair: it measures how far a score moves without a weight.
`make_distillation` makes the loss.

Shapes: M pairs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..distillation.discrepancy import DiscrepancyMeter
from ..distillation.objective import DistillationLoss
from ..distillation.tasks import Task
from ..distillation.teacher import FrozenTeacher
from ..export.card import MethodCard
from ..homodistil_args import AtOnceArguments
from ..models.tokenizers import padding_multiple
from ..models.widths import WidthPlan
from ..trainer import HomoDistilTrainer
from ..training.evaluation_loop import HeldOutEvaluation
from ..training.pair import Start
from .pairs import RANKING_METRICS, check_one_score, pair_reader
from .reading import default_activation
from .texts import TextCollator


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
        # first four as the base class has them, Σ s·t in the place of the KL, and no right predictions
        zero, count = torch.zeros_like(error), error.new_full((), len(own))
        moments = own.sum(), theirs.sum(), own.square().sum(), theirs.square().sum()
        return error, (own * theirs).sum(), zero, count, *moments

    def results(self, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums) -> dict[str, float]:
        """`probe_loss`, the mean squared error of the scores, and `correlation` with the teacher's, in [-1, 1]."""
        error, products, _, count, own, theirs, own_squares, their_squares = reduce(self.sums).tolist()
        if count == 0:
            return {}
        # (E st − E s · E t) / √(Var s · Var t), 0 where all scores of a model are equal
        covariance = products / count - own * theirs / count**2
        variances = own_squares / count - (own / count) ** 2, their_squares / count - (theirs / count) ** 2
        scale = max(variances[0] * variances[1], 1e-24) ** 0.5
        return {"probe_loss": error / count, "correlation": covariance / scale}


@dataclass
class RerankerDistilArguments(AtOnceArguments):
    """Settings of a reranker's run; units are scored by a probe, so they are dropped before the first step."""

    no_part: ClassVar = AtOnceArguments.no_part | {
        "mlm_weight": "there are no masked words; use kl_weight",
        "task_weight": "there are no labels; use kl_weight",
        "mlm_probability": "there are no masked words; leave it out",
    }


class RerankerDistilTrainer(HomoDistilTrainer):
    """Prunes and distils a model of one score a pair of texts; needs unlabelled pairs alone, labels measure its order.

    L = w_kl·Σ(s_s − s_t)² + w_hidden·Σ_k MSE(H_t^k, H_s^k W_k) + w_embedding·MSE(E_t, E_s W_e), averaged over pairs,
    or tokens, with the logits s.

    Args:
        model: sequence classification of one logit: Hub name, folder, or loaded.
        args: the run's settings.
        processing_class: the tokenizer, which pads.
        teacher_model: the model that the student learns from; default: `model`.
        train_dataset: pairs in two columns, such as query and passage, or rows as [`tokenize_pairs`] makes them.
        eval_dataset: the same; pairs with labels are ranked. All other arguments are documented in
            [`DistillationTrainer`].

    Raises:
        ValueError: as [`HomoDistilTrainer`]; a model of another head, or of several logits.
    """

    method = "reranker"
    arguments_class = RerankerDistilArguments
    reported_metrics = ("correlation", *RANKING_METRICS)
    card = MethodCard(
        student="pruned reranker",
        made="pruned from {teacher} and distilled",
        how="Hidden channels, heads and neurons were removed by a probe of the scores, and the scores distilled.",
    )

    def start_from(self, model: Any, teacher_model: Any, plan: WidthPlan | None) -> Start:
        """Remember where the teacher comes from; arguments and return as [`DistillationMethod.start_from`]."""
        whole = teacher_model or model
        self.teacher_source = whole
        return Start(model, teacher_model, plan)

    def reader_of(self, data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> Any:
        """How pairs of columns are read; arguments as [`DistillationMethod.reader_of`]."""
        return pair_reader(data, tokenizer, model)

    def default_collator(self, task: Task, tokenizer: Any, config: PreTrainedConfig) -> TextCollator:
        """Pads pairs; arguments as [`DistillationMethod.default_collator`]."""
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                f"processing_class={tokenizer!r} is no tokenizer, so pairs can't be padded; pass the teacher's"
            )
        # a direction of one channel, of length 1, is a sign
        return TextCollator(tokenizer, dimension=1, seed=self.args.seed, multiple=padding_multiple(config))

    def set_up_student(self) -> None:
        """Also give the student its teacher's activation."""
        super().set_up_student()
        activation = default_activation(self.teacher_source, token=self.args.hub_token)
        if activation is not None:  # exports carry it in the place that every version of the library reads
            self.model.config.sentence_transformers = {"activation_fn": activation}

    def make_evaluation(self) -> HeldOutEvaluation:
        """The measurement of scores."""
        return ScoreEvaluation(self.model, self.distillation.teacher, RERANKING, self.accelerator)

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """Scores and states; arguments and return as [`DistillationMethod.make_distillation`]."""
        check_one_score(self.model)
        found = super().make_distillation(teacher)
        found.task = RERANKING
        found.weights = found.weights | {RERANKING.name: 0.0}
        return found


class ScoreEvaluation(HeldOutEvaluation):
    """Held-out pairs: error and correlation of scores, the order of labelled pairs; as [`HeldOutEvaluation`]."""

    meter_class = ScoreMeter

    def of_teacher(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """The metrics of a perfect student; by labels the teacher is measured as a student."""
        perfect = {"probe_loss": 0.0, "correlation": 1.0, "loss": 0.0}
        return perfect | self._whole_row_scores(self.teacher.exact)
