"""Streams as a trainer reads them: cut into whole micro-batches, on any number of ranks, and told from others.

accelerate would share a stream of many files by file, so the number of ranks would change the order, and it would
repeat rows at the stream's end. `WholeBatches` prevents both, and `DealtShards` lets each rank read its own files.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..data.shards import num_lanes_of, parts_of


def order_digest(stream: Any) -> str:
    """Tell a stream's order from others, as far as it shows: whether it is shuffled by which seed, or a node's part.

    Streams of torch's kind all have one digest.
    """
    drawn_from = [getattr(part, "generator", None) for part in parts_of(stream)]
    states = [one.bit_generator.state for one in drawn_from if isinstance(one, np.random.Generator)]
    digest = hashlib.sha256(repr((getattr(stream, "_distributed", None), states)).encode("utf-8"))
    return f"a stream, order {digest.hexdigest()[:8]}"


def with_own_epoch(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """The same stream, whose number of the pass is this rank's alone.

    It lies in shared memory, for loader workers. Ranks that were forked after the stream was made, as a notebook's
    are, share it too, and datasets adds to it: ranks that set it at once would read in the order of another pass.
    """
    own = object.__new__(type(stream))
    own.__setstate__(stream.__getstate__() | {"_epoch": torch.tensor(stream.epoch)})
    return own


class WholeBatches(IterableDataset):
    """A stream cut to a whole number of micro-batches on every rank.

    Each rank reads the whole stream and keeps its own micro-batches. Each loader worker cuts its own share.

    Args:
        stream: rows, always in the same order.
        num_rows: rows a micro-batch, over all ranks.

    Example:
    ```python
    >>> list(WholeBatches(range(10), num_rows=4))
    [0, 1, 2, 3, 4, 5, 6, 7]

    ```
    """

    def __init__(self, stream: Iterable[Any], *, num_rows: int):
        self.stream: Any = stream
        self.num_rows = num_rows

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows of whole micro-batches."""
        rows = []
        for row in self.stream:
            rows.append(row)
            if len(rows) == self.num_rows:
                yield from rows
                rows = []

    def __len__(self) -> int:
        """Number of rows, if the stream has a length."""
        return len(self.stream) // self.num_rows * self.num_rows

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to a stream that shuffles by it."""
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)


class DealtShards(IterableDataset):
    """A stream of many shards, such as files, of which each rank and loader worker reads its own alone.

    A step takes as many rows from each lane, every n-th shard. So rows of a step are the same on any number of ranks.
    For each row of another rank there is None, which accelerate leaves out. It ends with the first lane that does.
    Several loader workers share the lanes out: steps take turns with their parts, and each part ends for itself.

    Args:
        stream: of many shards.
        rows_per_step: of all ranks.
        batch_size: rows of a micro-batch on one rank.
        rank: of this process.
        num_ranks: of all.
    """

    def __init__(
        self,
        stream: datasets.IterableDataset,
        *,
        rows_per_step: int,
        batch_size: int,
        rank: int = 0,
        num_ranks: int = 1,
    ):
        self.stream = stream
        self.rows_per_step, self.batch_size = rows_per_step, batch_size
        self.rank, self.num_ranks = rank, num_ranks

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows of its own micro-batches, and None for each row of another rank beside them."""
        worker = get_worker_info()
        # loader workers take micro-batches in turn, so they are as further ranks of a step that is longer
        own, num_all = (
            (self.rank, self.num_ranks)
            if worker is None
            else (self.rank + self.num_ranks * worker.id, self.num_ranks * worker.num_workers)
        )
        num_rows = self.rows_per_step * num_all // self.num_ranks
        num_lanes = num_lanes_of(self.stream, self.rows_per_step)
        # micro-batch of all ranks and workers → the lane of each of its rows
        lanes_of = [
            [place * num_lanes // num_rows for place in range(first, first + self.batch_size)]
            for first in range(0, num_rows, self.batch_size)
        ]
        read = {lane for batch in range(own, len(lanes_of), num_all) for lane in lanes_of[batch]}
        rows_of = {lane: self._rows(lane, num_lanes) for lane in read}
        before, behind = self.rank * self.batch_size, (self.num_ranks - 1 - self.rank) * self.batch_size
        for batch in itertools.cycle(range(len(lanes_of))):
            # rows of other ranks are passed over, where they share a lane
            rows = [next(rows_of[lane], None) for lane in lanes_of[batch] if lane in read]
            if None in rows:
                return
            if batch % num_all == own:
                yield from itertools.chain([None] * before, rows, [None] * behind)

    def _rows(self, lane: int, num_lanes: int) -> Iterator[Any]:
        shards = self.stream.shard(num_lanes, lane, contiguous=False)
        shards.set_epoch(self.stream.epoch)
        # not by its own iterator, which would divide shards among loader workers
        for batch in shards.iter(batch_size=1):
            yield {name: values[0] for name, values in batch.items()}

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch on to a stream that shuffles by it."""
        self.stream.set_epoch(epoch)
