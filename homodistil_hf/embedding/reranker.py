"""Rerankers, which sentence-transformers calls cross-encoders: a narrower model of pairs that scores as its teacher.

The student starts as its teacher, so the error of its scores has no gradient. So units are scored by the gradient of a
probe, Σ_b v_b·s_b, with a random sign v_b for each pair: it measures how far a score moves without a weight.
[`pairs_in`] finds the columns of raw rows, [`tokenize_pairs`] makes rows of them.

Shapes: M pairs.
"""

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from ..data.masking import UNKNOWN_VALUE
from ..data.triplets import PAIR_COLUMNS, as_pairs
from ..distillation.discrepancy import DiscrepancyMeter
from ..distillation.objective import DistillationLoss
from ..distillation.tasks import Task, task_of
from ..distillation.teacher import FrozenTeacher
from ..export.facts import MethodCard
from ..files.messages import first_of
from ..homodistil_args import AtOnceArguments
from ..models.heads import logits_of_rows
from ..models.tokenizers import as_heads_read, as_it_was, padding_multiple
from ..models.widths import WidthPlan
from ..tasks.columns import ReadRows, check_rows, find_columns
from ..tasks.encoding import length_of_rows
from ..tasks.kinds import VALUES
from ..tasks.labels import label_numbers
from ..trainer import HomoDistilTrainer
from ..training.evaluation_loop import HeldOutEvaluation
from ..training.pair import Origins
from ..training.raw_rows import Grading, RawReader, first_raw
from .metrics import ranking_scores
from .model import SCORE_KEYS, name_unused
from .texts import TextCollator

logger = logging.getLogger(__name__)


def score_terms(
    student_M1: torch.Tensor, teacher_M1: torch.Tensor, signs_M1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Σ v·s and Σ (s − t)², for logits s and t, and random signs v.

    At the start of a run the second has no gradient, so units are scored by the first, the probe.
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
        "nested": "rerankers have one size, or a family; leave it out",
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
        eval_dataset: the same; pairs with labels are ranked. All other arguments are those of
            [`HomoDistilTrainer`].

    Raises:
        ValueError: as [`HomoDistilTrainer`]; a model of another head, or of several logits.
    """

    method = "reranker"
    arguments_class = RerankerDistilArguments
    reported_metrics = ("correlation", "ndcg_at_10", "mrr_at_10", "spearman")
    card = MethodCard(
        student="pruned reranker",
        made="pruned from {teacher} and distilled",
        how="Hidden channels, heads and neurons were removed by a probe of the scores, and the scores distilled.",
    )

    def start_from(self, model: Any, teacher_model: Any, plan: WidthPlan | None) -> Origins:
        """Remember where the teacher comes from; arguments and return as [`DistillationTrainer.start_from`]."""
        self.teacher_source = teacher_model or model
        return model, teacher_model, plan

    def reader_of(self, data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> "PairReader | None":
        """How pairs of columns are read; arguments as [`DistillationTrainer.reader_of`]."""
        argument, first = first_raw(data)
        if first is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return None
        pairs = pairs_in(first, argument=argument)
        own = as_heads_read(tokenizer, model.config)
        length = length_of_rows(pairs, model.config, own)
        logger.info("%s: %s; max_seq_length=%d", argument, pairs.columns.describe(), length)
        return PairReader(model.config, own, length)

    def default_collator(self, task: Task, tokenizer: Any, config: PreTrainedConfig) -> TextCollator:
        """Pads pairs; arguments as [`DistillationTrainer.default_collator`]."""
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(
                f"processing_class={tokenizer!r} is no tokenizer, so pairs can't be padded; pass the teacher's"
            )
        # a direction of one channel, of length 1, is a sign
        return TextCollator(tokenizer, dimension=1, seed=self.args.seed, multiple=padding_multiple(config))

    def set_up_student(self) -> None:
        """Also name the teacher's settings that aren't used."""
        super().set_up_student()
        if isinstance(source := self.teacher_source, str | Path):
            name_unused(str(source), [""], f"model={str(source)!r}", read=SCORE_KEYS, token=self.args.hub_token)

    def make_evaluation(self) -> HeldOutEvaluation:
        """The measurement of scores."""
        return ScoreEvaluation(self.model, self.distillation.teacher, RERANKING, self.accelerator)

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """Scores and states; arguments and return as [`DistillationTrainer.make_distillation`]."""
        check_one_score(self.model)
        distillation = super().make_distillation(teacher)
        distillation.task = RERANKING
        return distillation


class ScoreEvaluation(HeldOutEvaluation):
    """Held-out pairs: error and correlation of scores, the order of labelled pairs; as [`HeldOutEvaluation`]."""

    def new_meter(self, whose: str) -> ScoreMeter:
        """A meter without rows."""
        return ScoreMeter(self.task)

    def of_teacher(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """The metrics of a perfect student; by labels the teacher is measured as a student."""
        perfect = {"probe_loss": 0.0, "correlation": 1.0, "loss": 0.0}
        return perfect | (self.whole_row_scores(self.teacher.exact) if self.whole_row_scores else {})


def pairs_in(
    rows: Dataset,
    *,
    texts: Sequence[str] = (),
    label_column: str | None = None,
    argument: str = "train_data",
    least: int = 1,
) -> ReadRows:
    """Find the two columns of text, and that of labels, as those of a regression.

    Where none are named, rows of a query and several texts become a row a pair first, see `data/triplets.py`.

    Raises:
        ValueError: one column of text, a column that isn't there, rows without a text, or fewer than `least`.
    """
    config = PreTrainedConfig(num_labels=1)
    if not texts:
        rows, found = as_pairs(rows, argument)
        texts = PAIR_COLUMNS[:2] if found else ()
    columns = find_columns(rows, config, VALUES, text_columns=texts, label_column=label_column, argument=argument)
    if len(columns.texts) != 2:
        raise ValueError(
            f"{argument} has the columns {first_of(rows.column_names)}; a reranker reads pairs of texts: rename two "
            "to query and passage, or name two, such as 'question,passage' (text_column); a regression is distilled "
            "by method=homodistil"
        )
    part = ReadRows(rows, columns, argument)
    check_rows(part, least=least)
    return part


def check_one_score(model: PreTrainedModel, label: str = "model") -> None:
    """Raise ValueError for a model that gives a pair of texts anything but one score; `label` names it."""
    task, num_labels = task_of(model), model.config.num_labels
    if task.name != "task" or task.has_classes or num_labels != 1:
        raise ValueError(
            f"{label} is a {type(model).__name__} of {num_labels} labels; a reranker has one logit a pair of texts: "
            "name such a model, or use method=homodistil, in Python HomoDistilTrainer"
        )


@dataclass(frozen=True)
class PairReader(RawReader):
    """Reads pairs for a reranker of such a configuration and tokenizer, `length` tokens at most."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    length: int
    num_proc: int | None = None

    @override
    def found(self, rows: Dataset, argument: str) -> ReadRows:
        return pairs_in(rows, argument=argument)

    @override
    def encoded(self, rows: Dataset, argument: str, part: Any) -> Dataset:
        names = dict(zip(part.columns.texts, ("first", "second"), strict=True))
        table = part.rows.select_columns(list(names)).rename_columns(names)
        return tokenize_pairs(table, self.tokenizer, max_length=self.length, num_proc=self.num_proc)

    @override
    def grading(self, part: ReadRows) -> Grading | None:
        return self.grading_of([part])

    def grading_of(self, parts: Sequence[ReadRows]) -> Grading | None:
        """Measures a model's order of pairs by their labels, see [`ranking_scores`].

        None where all labels are missing, or alike.
        """
        labels: list[float] = []
        texts: list[tuple[str, ...]] = []
        for part in parts:
            # rows whose label is known, with their texts beside it
            own = np.array(label_numbers(part, self.config), dtype=np.float64)[:, 0]
            known = np.flatnonzero(own != UNKNOWN_VALUE).tolist()
            labels += own[known].tolist()
            texts += zip(*(part.rows.select(known)[name][:] for name in part.columns.texts), strict=True)
        if len(set(labels)) < 2:
            if labels:
                logger.warning("%s: all labels are alike, so no order is measured by them", parts[0].argument)
            return None
        first, second = map(list, zip(*texts, strict=True))
        with as_it_was(self.tokenizer):
            encoded = dict(self.tokenizer(first, second, truncation=True, max_length=self.length))
        table = Dataset.from_dict(encoded)

        def grade(model: PreTrainedModel) -> dict[str, float]:
            scores = [float(logits[0]) for (logits,) in logits_of_rows(model, table, self.tokenizer, "logits")]
            return ranking_scores(np.array(scores), np.array(labels), first)

        return grade


def tokenize_pairs(
    pairs: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    num_proc: int | None = None,
) -> Dataset:
    """Pairs → rows: each first text with its own second text, and with that of another pair.

    A reranker mostly scores documents that don't answer the question, so a student learns their scores as well.

    Args:
        pairs: with columns `first` and `second`.
        tokenizer: of the model.
        max_length: tokens of a pair at most, special ones included; the longer text is cut first.
        num_proc: processes.

    Returns:
        `Dataset`: `input_ids`, and `token_type_ids` where the tokenizer makes them; lists of different lengths.
    """

    def rows(batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        of_batch = list(zip(batch["first"], batch["second"], strict=True))
        # a generator for each batch, whichever process tokenizes it
        draw = random.Random(f"0 {indices[0]}")
        wanted = []
        # each first text beside its own second text, then beside that of another pair in the batch
        for one, answer in of_batch:
            wanted.append((one, answer))
            if others := [other for _, other in of_batch if other != answer]:
                wanted.append((one, draw.choice(others)))
        first, second = map(list, zip(*wanted, strict=True))
        with as_it_was(tokenizer):
            encoded = tokenizer(first, second, truncation=True, max_length=max_length, return_attention_mask=False)
        return dict(encoded)

    how: dict[str, Any] = {"with_indices": True, "num_proc": num_proc, "desc": "Tokenizing pairs"}
    return pairs.map(rows, batched=True, remove_columns=pairs.column_names, **how)
