"""Rows of text, one or two columns → padded batches without labels, blocks or masks."""

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from ..models.tokenizers import check_padding, check_vocabulary, rows_of_texts
from .blocks import drawn_indices
from .lengths import batches_by_length


def unlabeled_batches(
    columns: Sequence[Sequence[str | None]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_rows: int | None = None,
    seed: int = 0,
    max_length: int = 128,
    batch_size: int = 32,
) -> list[dict[str, torch.Tensor]]:
    """Tokenize texts, or pairs of them, and pad rows of like length together.

    A text longer than a row becomes several rows; a pair is cut.

    Args:
        columns: one or two columns of equally many texts; rows without text are left out.
        tokenizer: of the model that reads the batches.
        num_rows: rows to draw, ≥ 1; default: all.
        seed: seed of the draw.
        max_length: tokens a row, special ones included.
        batch_size: rows a batch, ≥ 1.

    Returns:
        Batches of the tokenizer's columns (`input_ids`, `attention_mask`, …), each `(batch, tokens)` int64.

    Raises:
        ValueError: no row has any text, or the tokenizer has no vocabulary.
    """
    check_vocabulary(tokenizer)
    check_padding(tokenizer)
    rows = [[text or "" for text in row] for row in zip(*columns, strict=True)]
    rows = [row for row in rows if "".join(row).strip()]
    if not rows:
        raise ValueError("the unlabeled data have no text in any row; name others, or another column")
    texts = [list(column) for column in zip(*rows, strict=True)]
    encoded: Mapping[str, list[list[int]]]
    if len(texts) == 1:
        encoded = rows_of_texts(tokenizer, texts[0], max_length)
    else:
        encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    return padded_batches(encoded, tokenizer, num_rows=num_rows, seed=seed, batch_size=batch_size)


def padded_batches(
    encoded: Mapping[str, list[list[int]]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_rows: int | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> list[dict[str, torch.Tensor]]:
    """Draw some of the tokenized rows, and pad those of like length together; arguments of [`unlabeled_batches`]."""
    lengths = [len(tokens) for tokens in encoded["input_ids"]]
    chosen = drawn_indices(len(lengths), num_rows or len(lengths), seed)
    return [
        dict(tokenizer.pad({name: [encoded[name][index] for index in batch] for name in encoded}, return_tensors="pt"))
        for batch in batches_by_length(chosen, lengths, batch_size)
    ]
