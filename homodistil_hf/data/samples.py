"""Rows of text as they are, one or two columns → padded batches without labels; no blocks, no masking."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase


def drawn(rows: Dataset, num_rows: int, *, seed: int) -> Dataset:
    """Draw rows without replacement, always the same for a seed, in their order; all where there are no more."""
    if num_rows >= len(rows):
        return rows
    return rows.select(sorted(np.random.RandomState(seed).permutation(len(rows))[:num_rows].tolist()))


def unlabeled_batches(
    columns: Sequence[Sequence[str | None]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int = 128,
    batch_size: int = 32,
) -> list[dict[str, torch.Tensor]]:
    """Tokenize texts, or pairs of them, and pad rows of like length together.

    Args:
        columns: one or two columns of equally many texts; rows without any are left out.
        tokenizer: the model's.
        max_length: tokens a row, special ones included; longer rows are cut.
        batch_size: rows a batch, ≥ 1.

    Returns:
        Batches of what the tokenizer gives (`input_ids`, `attention_mask`, …), each `(batch, tokens)` int64.

    Raises:
        ValueError: no row has any text.
    """
    rows = [[text or "" for text in row] for row in zip(*columns, strict=True) if any(text for text in row)]
    rows = [row for row in rows if any(text.strip() for text in row)]
    if not rows:
        raise ValueError("the unlabeled data have no text in any row; name others, or another column")
    encoded = tokenizer(*map(list, zip(*rows, strict=True)), truncation=True, max_length=max_length)
    order = sorted(range(len(rows)), key=lambda index: len(encoded["input_ids"][index]))
    batches = [order[first : first + batch_size] for first in range(0, len(rows), batch_size)]
    return [
        dict(tokenizer.pad({name: [encoded[name][index] for index in batch] for name in encoded}, return_tensors="pt"))
        for batch in batches
    ]
