"""Unlabelled pairs of texts as rows, for models that score them: questions with their documents and with others."""

import random
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ...models.tokenizers import as_it_was


def tokenize_pairs(
    pairs: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    num_others: int = 1,
    seed: int = 0,
    num_proc: int | None = None,
    argument: str = "the data",
) -> Dataset:
    """Pairs → rows: each first text with its own second text, and with second texts of other pairs.

    A reranker mostly scores documents that don't answer, so a student learns their scores as well.

    Args:
        pairs: with columns `first` and `second`.
        tokenizer: of the model.
        max_length: tokens of a pair at most, special ones included; the longer text is cut first.
        num_others: rows with a second text of another pair, for each pair.
        seed: of the choice of other pairs.
        num_proc: processes.
        argument: name of the pairs in messages.

    Returns:
        `Dataset`: `input_ids`, and `token_type_ids` where the tokenizer makes them; lists of different lengths.

    Raises:
        ValueError: no pair of two texts.
    """

    def rows(batch: Mapping[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        found = [(one, other) for one, other in zip(batch["first"], batch["second"], strict=True) if one and other]
        draw = random.Random(f"{seed} {indices[0]}")
        wanted = [(one, text) for one, own in found for text in (own, *_others(found, own, num_others, draw))]
        if not wanted:
            return {"input_ids": []}
        first, second = map(list, zip(*wanted, strict=True))
        with as_it_was(tokenizer):
            encoded = tokenizer(first, second, truncation=True, max_length=max_length, return_attention_mask=False)
        return dict(encoded)

    table = pairs.map(
        rows,
        batched=True,
        with_indices=True,
        remove_columns=pairs.column_names,
        num_proc=num_proc,
        desc="Tokenizing pairs",
    )
    if not len(table):
        raise ValueError(f"{argument}: no pair of two texts; name other columns (text_column) or other data")
    return table


def _others(pairs: list[tuple[str, str]], own: str, num_others: int, draw: random.Random) -> list[str]:
    choices = [second for _, second in pairs if second != own]
    return [draw.choice(choices) for _ in range(num_others)] if choices else []
