"""Rows of a reranker, as people have them: two columns of text, and maybe labels, which its order is measured by."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from ..data.masking import UNKNOWN_VALUE
from ..distillation.tasks import task_of
from ..evaluation.fine_tuning import predict
from ..models.tokenizers import as_it_was, without_unused_segments
from ..tasks.columns import ReadRows, find_columns
from ..tasks.encoding import check_rows, length_of_rows
from ..tasks.kinds import VALUES
from ..tasks.labels import label_numbers
from ..training.raw_rows import Grading, RawReader, first_raw, is_raw
from .tasks import ranking_scores
from .texts import tokenize_pairs

logger = logging.getLogger(__name__)
RANKING_METRICS = ("ndcg_at_10", "mrr_at_10", "spearman")
"""What labels measure of an order; the first two of queries whose passages have different labels."""


def pairs_in(
    rows: Dataset,
    *,
    texts: Sequence[str] = (),
    label_column: str | None = None,
    argument: str = "train_data",
    least: int = 1,
) -> ReadRows:
    """Find the two columns of text, and that of labels, as those of a regression; rows that lack a text are left out.

    Raises:
        ValueError: one column of text, a column that isn't there, or fewer pairs than `least`.
    """
    config = PreTrainedConfig(num_labels=1)
    columns = find_columns(rows, config, VALUES, text_columns=texts, label_column=label_column, argument=argument)
    if len(columns.texts) != 2:
        raise ValueError(
            f"{argument} has the columns {', '.join(rows.column_names)}; a reranker reads pairs of texts: rename two "
            "to query and passage"
        )
    pairs = zip(*(rows[name][:] for name in columns.texts), strict=True)
    places = [place for place, pair in enumerate(pairs) if all(pair)]
    if len(rows) and not places:
        raise ValueError(f"{argument}: no pair of two texts; name other text_columns or other data")
    whole = rows if len(places) == len(rows) else rows.select(places)
    check_rows(whole, columns, argument, least=least)
    return ReadRows(whole, columns, argument)


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
    """Reads pairs for a reranker.

    Args:
        config: of the model.
        tokenizer: of the model.
        length: tokens of a row at most.
        num_proc: processes that tokenize.
    """

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    length: int
    num_proc: int | None = None

    @override
    def encoded(self, rows: Any, argument: str) -> Any:
        return self.tokenized(pairs_in(rows, argument=argument)) if is_raw(rows) else rows

    def tokenized(self, pairs: ReadRows) -> Dataset:
        """Rows as [`tokenize_pairs`] makes them."""
        names = dict(zip(pairs.columns.texts, ("first", "second"), strict=True))
        table = pairs.rows.select_columns(list(names)).rename_columns(names)
        how: dict[str, Any] = {"max_length": self.length, "num_proc": self.num_proc, "argument": pairs.argument}
        return tokenize_pairs(table, self.tokenizer, **how)

    @override
    def grading(self, rows: Any, argument: str) -> Grading | None:
        return self.grading_of([pairs_in(rows, argument=argument)])

    def grading_of(self, parts: Sequence[ReadRows]) -> Grading | None:
        """Measures a model's order of pairs by their labels, see [`ranking_scores`].

        None where all labels are missing, or alike.
        """
        labels: list[float] = []
        texts: list[tuple[str, ...]] = []
        for rows, columns, argument in parts:
            # rows whose label is known, with their texts beside it
            own = np.array(label_numbers(rows, columns, self.config, argument), dtype=np.float64)[:, 0]
            known = np.flatnonzero(own != UNKNOWN_VALUE).tolist()
            labels += own[known].tolist()
            texts += zip(*(rows.select(known)[name][:] for name in columns.texts), strict=True)
        if len(set(labels)) < 2:
            if labels:
                logger.warning("%s: all labels are alike, so no order is measured by them", parts[0].argument)
            return None
        first, second = map(list, zip(*texts, strict=True))
        with as_it_was(self.tokenizer):
            encoded = dict(self.tokenizer(first, second, truncation=True, max_length=self.length))
        # row numbers stand in the column of labels: `predict` sorts by length, and gives them back beside the logits
        places = {"length": list(map(len, encoded["input_ids"])), "labels": list(range(len(labels)))}
        table = Dataset.from_dict(encoded | places)
        return partial(_graded, pairs=table, tokenizer=self.tokenizer, labels_R=np.array(labels), queries=first)


def _graded(
    model: PreTrainedModel,
    *,
    pairs: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    labels_R: np.ndarray,
    queries: list[str],
) -> dict[str, float]:
    logits_R1, places_R = predict(model, pairs, tokenizer)  # in order of length
    # argsort of a permutation is its inverse: logits in the order of the rows
    return ranking_scores(logits_R1[np.argsort(places_R), 0], labels_R, queries)


def pair_reader(data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> PairReader | None:
    """Return the reader of tables without `input_ids`; arguments, return and errors as [`reader_of`]."""
    argument, first = first_raw(data)
    if first is None or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    rows, columns, _ = pairs_in(first, argument=argument)
    own = without_unused_segments(tokenizer, model.config)
    length = length_of_rows(rows, columns, model.config, own)
    logger.info("%s: %s; max_seq_length=%d", argument, columns.describe(), length)
    return PairReader(model.config, own, length)
