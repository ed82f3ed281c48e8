"""Separate texts as rows, for models that make one vector of each: cut, tokenized, put beside others of their length.

Where texts come from is [`corpus`]'s to say.
"""

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

MULTIPLE = 8
"""Batches are padded to a multiple of so many tokens."""
LEAST_CHARACTERS = 20
"""Of a paragraph that makes a row; headings are shorter."""
_BATCHES_IN_A_CHUNK = 64


def paragraphs(text: str | None, least_characters: int = LEAST_CHARACTERS) -> list[str]:
    r"""The paragraphs of a text, divided by line breaks, that are not too short.

    Example:
    ```python
    >>> paragraphs("Heading\n A line that is longer than that.\n")
    ['A line that is longer than that.']

    ```
    """
    lines = (line.strip() for line in (text or "").splitlines())
    return [line for line in lines if len(line) >= least_characters]


def tokenize_texts(
    documents: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    prepare: Callable[[str], str] = str,
    least_characters: int = LEAST_CHARACTERS,
    num_proc: int | None = None,
) -> Dataset:
    """Documents → a row a paragraph: sentences, passages, headings that are long enough.

    Args:
        documents: with a column `text`; paragraphs are divided by line breaks.
        tokenizer: of the encoder.
        max_length: tokens at most, special ones included; the rest of a paragraph makes rows of its own.
        prepare: what is done to each paragraph first (prompts, lower case).
        least_characters: shorter paragraphs are left out.
        num_proc: processes.

    Returns:
        `Dataset`: `input_ids`, lists of different lengths.

    Raises:
        ValueError: no paragraph is long enough.
    """

    def rows(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        wanted = [prepare(line) for text in batch["text"] for line in paragraphs(text, least_characters)]
        if not wanted:
            return {"input_ids": []}
        encoded = tokenizer(wanted, truncation=True, max_length=max_length, return_overflowing_tokens=True)
        return {"input_ids": encoded["input_ids"]}

    table = documents.map(
        rows,
        batched=True,
        remove_columns=documents.column_names,
        num_proc=num_proc,
        desc="Tokenizing texts",
    )
    if not len(table):
        raise ValueError(
            f"the data have no paragraph of {least_characters} characters or more; name other data, or set "
            "least_characters lower"
        )
    return table


def by_length(rows: Dataset, *, batch_size: int, seed: int = 0) -> Dataset:
    """The rows in an order in which those of a batch are about equally long, batches of all lengths in turn.

    Args:
        rows: with `input_ids`.
        batch_size: rows of a step, on all ranks.
        seed: of the order.

    Returns:
        `Dataset`: the same rows but for those that fill no batch; read it in this order.
    """
    lengths = [len(ids) for ids in rows["input_ids"]]
    draw = random.Random(seed)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    chunk = batch_size * _BATCHES_IN_A_CHUNK
    batches: list[list[int]] = []
    for start in range(0, len(order), chunk):
        ranked = sorted(order[start : start + chunk], key=lambda index: lengths[index])
        whole = [ranked[at : at + batch_size] for at in range(0, len(ranked), batch_size)]
        batches += [batch for batch in whole if len(batch) == batch_size]
    draw.shuffle(batches)
    return rows.select([index for batch in batches for index in batch])


class TextCollator:
    """Rows → a padded batch, and of each row a random direction, by which units are scored.

    A direction is a function of the row's tokens and the seed alone, so that a resumed run and other numbers of ranks
    see the same.

    Args:
        tokenizer: pads.
        dimension: channels of a vector.
        seed: of the directions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, dimension: int, seed: int = 0):
        self.tokenizer = tokenizer
        self.dimension = dimension
        self.seed = seed

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows with `input_ids` → `input_ids` and `attention_mask` `(B, T)`, `labels` `(B, D)` of length 1.

        `token_type_ids`, which pairs of texts may have, are padded as well.
        """
        names = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]
        inputs = self.tokenizer.pad(
            [{name: list(row[name]) for name in names} for row in rows],
            pad_to_multiple_of=MULTIPLE,
            return_tensors="pt",
        )
        directions = torch.stack(list(self._directions(rows)))
        return {name: inputs[name] for name in (*names, "attention_mask")} | {"labels": directions}

    def _directions(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[torch.Tensor]:
        for row in rows:
            number = zlib.crc32(torch.tensor(row["input_ids"]).numpy().tobytes(), self.seed)
            generator = torch.Generator().manual_seed(number)
            yield torch.nn.functional.normalize(torch.randn(self.dimension, generator=generator), dim=-1)
