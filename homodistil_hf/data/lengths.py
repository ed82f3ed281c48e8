"""The order of rows in which those of a batch are about equally long, so that little padding is computed."""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

from datasets import Dataset, IterableDataset
from torch.utils.data import Sampler

from .shards import SORTS

Rows: TypeAlias = Any
"""`Dataset` or `IterableDataset`: a table, or a stream."""
_BATCHES_IN_A_CHUNK = 64


def by_length(rows: Rows, *, batch_size: int, seed: int = 0) -> Rows:
    """Order rows so that the rows of a batch are about equally long, and batches of all lengths alternate.

    A run of a table does the same anew in each pass with `train_sampling_strategy="group_by_length"`.

    Args:
        rows: with `input_ids`. A stream is shuffled within the rows that are sorted together.
        batch_size: rows of a step, on all ranks.
        seed: seed of the order.

    Returns:
        `Dataset` or `IterableDataset`: the same rows, to be read in this order. A table loses its last rows if they
        fill no batch.
    """
    if isinstance(rows, IterableDataset):
        # a stream is sorted chunk by chunk, as its rows come
        chunk = batch_size * _BATCHES_IN_A_CHUNK
        shuffled = rows.shuffle(seed=seed, buffer_size=chunk)
        sort = partial(_sorted_chunk, batch_size=batch_size, seed=seed)
        return shuffled.map(sort, batched=True, batch_size=chunk)
    # rows are read one after the other: a batch that isn't full would shift all behind it
    order = _order([len(ids) for ids in rows["input_ids"]], batch_size, random.Random(seed))
    return rows.select(order[: len(order) // batch_size * batch_size])


class LengthSampler(Sampler[int]):
    """Draws rows in the order of [`by_length`], another one in each pass; rows that fill no batch come last.

    An order is a function of seed and pass alone. So it is the same in a resumed run and on any number of ranks.

    Args:
        rows: a table with `input_ids`, or a sequence of such rows.
        batch_size: rows of a step, on all ranks.
        seed: seed of the orders.
    """

    def __init__(self, rows: Any, *, batch_size: int, seed: int):
        # a table may make its tokens as rows are read
        is_whole = isinstance(rows, Dataset) and "input_ids" in rows.column_names
        self.lengths = [len(ids) for ids in (rows["input_ids"] if is_whole else (row["input_ids"] for row in rows))]
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The number of the pass to come."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(_order(self.lengths, self.batch_size, random.Random(f"{self.seed} {self.epoch}")))


def _order(lengths: Sequence[int], batch_size: int, draw: random.Random) -> list[int]:
    """Shuffle the rows, sort them by length within chunks, shuffle the batches of all chunks; the rest comes last."""
    chunk, order = batch_size * _BATCHES_IN_A_CHUNK, list(range(len(lengths)))
    draw.shuffle(order)
    num_whole = len(order) // batch_size * batch_size
    batches: list[list[int]] = []
    for start in range(0, num_whole, chunk):
        batches += batches_by_length(order[start : min(start + chunk, num_whole)], lengths, batch_size)
    draw.shuffle(batches)
    return [index for batch in batches for index in batch] + order[num_whole:]


def batches_by_length(order: Sequence[int], lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Cut rows, named by their places, into batches of like length."""
    ranked = sorted(order, key=lambda index: lengths[index])
    return [ranked[at : at + batch_size] for at in range(0, len(ranked), batch_size)]


def _sorted_chunk(rows: dict[str, list[Any]], *, batch_size: int, seed: int) -> dict[str, list[Any]]:
    lengths = [len(ids) for ids in rows["input_ids"]]
    *whole, last = batches_by_length(list(range(len(lengths))), lengths, batch_size)
    # the chunk's own lengths decide, so a resumed stream gets the same order without any state
    random.Random(f"{seed} {lengths}").shuffle(whole)
    # `last` at the end, as a batch that isn't full would shift all behind it
    chosen = [index for batch in (*whole, last) for index in batch]
    return {name: [values[index] for index in chosen] for name, values in rows.items()}


setattr(_sorted_chunk, SORTS, True)
