"""Which rows belong to a step: the same ones on any number of ranks with the same global batch.

accelerate deals micro-batches out to the ranks in turn. What it can't do is end a pass without repeating rows, and it
would share a stream of many files by file, so that another number of ranks meant another order. This file mends both;
what is done with the rows is `trainer.py`'s and `measuring.py`'s.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info


class WholeSteps(IterableDataset):
    """A stream without the rows at its end that are too few for a step.

    Each rank reads all of it and keeps its own micro-batches, which accelerate cuts out of whole steps only.

    Args:
        stream: rows, always in the same order.
        num_rows: rows a step, over all micro-batches and ranks.

    Example:
    ```python
    >>> list(WholeSteps(range(10), num_rows=4))
    [0, 1, 2, 3, 4, 5, 6, 7]

    ```
    """

    def __init__(self, stream: Iterable[Any], *, num_rows: int):
        self.stream: Any = stream
        self.num_rows = num_rows

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows of whole steps; a stream that has none raises."""
        num_steps, rows = 0, []
        for row in self.stream:
            rows.append(row)
            if len(rows) == self.num_rows:
                yield from rows
                num_steps, rows = num_steps + 1, []
        # In one of several data loader workers the stream may well be empty.
        if num_steps == 0 and get_worker_info() is None:
            raise ValueError(
                f"train_dataset is a stream of {len(rows)} rows, fewer than the {self.num_rows} of a step "
                "(per_device_train_batch_size × gradient_accumulation_steps × ranks); give more or a smaller batch"
            )

    def __len__(self) -> int:
        """Rows, for a stream that knows how many it has."""
        return len(self.stream) // self.num_rows * self.num_rows

    def set_epoch(self, epoch: int) -> None:
        """Hand the number of the pass on to a stream that is shuffled by it.

        Args:
            epoch: 0 or more.
        """
        set_epoch = getattr(self.stream, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)


def num_own_rows(num_total: int, *, batch_size: int, rank: int, num_ranks: int) -> int:
    """Rows of a rank's last micro-batch that repeat none: accelerate fills it up with the first rows of the pass.

    Args:
        num_total: rows of the whole data set.
        batch_size: rows a micro-batch and rank, ≥ 1.
        rank: in [0, num_ranks).
        num_ranks: ≥ 1.

    Returns:
        `int` in [0, batch_size].

    Example:
    ```python
    >>> [num_own_rows(14, batch_size=4, rank=rank, num_ranks=2) for rank in (0, 1)]
    [4, 2]

    ```
    """
    remainder = num_total % (batch_size * num_ranks)
    return batch_size if remainder == 0 else max(0, min(batch_size, remainder - rank * batch_size))


def first_rows(batch: Mapping[str, torch.Tensor], num_rows: int) -> dict[str, torch.Tensor]:
    """The first rows of a batch.

    Args:
        batch: tensors with a row each, and `masked_positions` into the flattened `input_ids`, if any.
        num_rows: how many.

    Returns:
        `dict`: a batch.
    """
    rows = {name: values[:num_rows] for name, values in batch.items()}
    if "masked_positions" in batch:
        positions = batch["masked_positions"]
        rows["masked_positions"] = positions[positions < num_rows * batch["input_ids"].shape[1]]
    return rows
