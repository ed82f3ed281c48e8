"""Rerankers, which sentence-transformers calls cross-encoders: a narrower model of pairs that scores as its teacher.

The student starts as its teacher, so the error of its scores has no gradient; units are scored by a probe instead,
Σ_b v_b·s_b with a random sign v_b for each pair, which says how far a score moves if a weight goes.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ...distillation.objective import DistillationLoss
from ...distillation.tasks import task_of
from ...distillation.teacher import FrozenTeacher
from ...export.card import MethodCard
from ...trainer import HomoDistilTrainer
from ...training.evaluation_loop import HeldOutEvaluation
from ...training_args import HomoDistilTrainingArguments
from ..conditions import check_loss_weights, check_pruned_at_once
from .model import default_activation
from .reranking import RERANKING, ScoreMeter
from .texts import TextCollator


class RerankerDistilTrainer(HomoDistilTrainer):
    """Prunes and distils a model of one score a pair of texts; needs unlabelled pairs alone.

    L = w_kl·Σ(s_s − s_t)² + w_hidden·Σ_k MSE(H_t^k, H_s^k W_k) + w_embedding·MSE(E_t, E_s W_e), averaged over pairs,
    or tokens, with the logits s.

    Args:
        model: sequence classification of one logit: Hub name, folder, or loaded.
        args: the run's settings; `mlm_weight` and `task_weight` have no part in the loss.
        processing_class: the tokenizer, which pads.
        teacher: who the student learns from; default: `model`.
        data_collator: default: [`TextCollator`].
        kwargs: as in [`HomoDistilTrainer`]; data sets have rows as [`tokenize_pairs`] makes them.

    Raises:
        ValueError: as [`HomoDistilTrainer`]; a model of another head, or of several logits.
    """

    method = "reranker"
    told_metrics = ("correlation",)
    card = MethodCard(
        student="pruned reranker",
        made="pruned from {teacher} and distilled",
        how="Hidden channels, heads and neurons were removed by a probe of the scores, and the scores distilled.",
    )

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        processing_class: Any,
        teacher: str | PreTrainedModel | None = None,
        data_collator: Any = None,
        **kwargs: Any,
    ):
        if data_collator is None:
            data_collator = TextCollator(processing_class, dimension=1, seed=args.seed)
        check_pruned_at_once(args, "rerankers")
        check_loss_weights({name: getattr(args, f"{name}_weight") for name in ("kl", "hidden", "embedding")})
        super().__init__(
            model, args, teacher=teacher, processing_class=processing_class, data_collator=data_collator, **kwargs
        )
        whole = teacher or model
        source = whole if isinstance(whole, str) else whole.name_or_path
        activation = default_activation(source) if source else None
        if activation is not None:  # an export says it where every version looks for it
            self.model.config.sentence_transformers = {"activation_fn": activation}

    def make_evaluation(self) -> HeldOutEvaluation:
        """The measurement of scores."""
        return ScoreEvaluation(self.model, self.distillation.teacher, RERANKING, self.accelerator)

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """Scores and states; arguments and return as [`DistillationTrainer.make_distillation`]."""
        num_labels = self.model.config.num_labels
        task = task_of(self.model)
        if task.name != "task" or task.has_classes or num_labels != 1:
            raise ValueError(
                f"model is a {type(self.model).__name__} of {num_labels} labels; a reranker has one logit a pair of "
                "texts: name such a model, or use HomoDistilTrainer"
            )
        found = super().make_distillation(teacher)
        found.task = RERANKING
        found.weights = found.weights | {RERANKING.name: 0.0}
        return found


class ScoreEvaluation(HeldOutEvaluation):
    """Held-out pairs: error and correlation of the scores; arguments as [`HeldOutEvaluation`]."""

    meter_class = ScoreMeter

    def of_teacher(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """What a student would have that is the teacher."""
        return {"probe_loss": 0.0, "correlation": 1.0, "loss": 0.0}
