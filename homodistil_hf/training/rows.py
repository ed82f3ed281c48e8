"""Which rows a rank has: the same ones in a step on any number of ranks with the same global batch.

accelerate deals micro-batches of a table out to the ranks in turn. A stream of many files it would share by file, so
that another number of ranks meant another order, and repeat rows at its end; both are mended here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length


class WholeBatches(IterableDataset):
    """A stream without the rows at its end that are too few for a micro-batch on every rank.

    Each rank reads all of it and keeps its own micro-batches. With loader workers each cuts off the end of its share.

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
        """Rows, for a stream that knows how many it has."""
        return len(self.stream) // self.num_rows * self.num_rows

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the pass on to a stream that is shuffled by it."""
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(epoch)


def check_evaluation_stream(dataset: Any, num_ranks: int) -> None:
    """Refuse a stream to evaluate on that ranks can't share evenly: one without a length."""
    if isinstance(dataset, IterableDataset) and num_ranks > 1 and not has_length(dataset):
        raise ValueError(
            f"a stream ({type(dataset).__name__}) to evaluate on can't be shared evenly by {num_ranks} ranks; make it "
            "a table: Dataset.from_list(list(stream))"
        )


def num_own_rows(remainder: int, *, batch_size: int, rank: int, num_ranks: int) -> int:
    """Rows of a rank's last evaluation batch that repeat none: accelerate fills it up with the first rows.

    Example:
    ```python
    >>> [num_own_rows(6, batch_size=4, rank=rank, num_ranks=2) for rank in (0, 1)]
    [4, 2]

    ```
    """
    remainder %= batch_size * num_ranks
    return batch_size if remainder == 0 else max(0, min(batch_size, remainder - rank * batch_size))


def first_rows(batch: Mapping[str, torch.Tensor], num_rows: int) -> dict[str, torch.Tensor]:
    """The first rows of a batch; its `masked_positions`, if any, point into the flattened `input_ids`."""
    if num_rows == len(batch["input_ids"]):
        return dict(batch)
    rows = {name: values[:num_rows] for name, values in batch.items()}
    if "masked_positions" in batch:
        positions = batch["masked_positions"]
        rows["masked_positions"] = positions[positions < num_rows * batch["input_ids"].shape[1]]
    return rows
