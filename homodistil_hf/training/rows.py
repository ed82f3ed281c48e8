"""Rows of a step: the same on any number of ranks with the same global batch.

accelerate deals micro-batches of a table out to the ranks in turn. It would share a stream of many files by file, so
the number of ranks would change the order, and it would repeat rows at the stream's end. `WholeBatches` prevents both.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers.trainer_utils import has_length


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


def check_has_steps(num_steps: int | None, rows_per_step: int) -> None:
    """Refuse a table that has fewer rows than one step; None, the unknown number of steps of a stream, passes."""
    if num_steps == 0:
        raise ValueError(
            f"train_dataset has fewer rows than the {rows_per_step} of a step (per_device_train_batch_size × "
            "gradient_accumulation_steps × ranks); give more rows or a smaller batch"
        )


def check_took_steps(num_steps: int, rows_per_step: int) -> None:
    """Refuse to end a run that has taken no step, because its stream was too short."""
    if num_steps == 0:
        raise ValueError(
            "the run ended after 0 steps: train_dataset gave fewer rows than a step has "
            f"({rows_per_step} = per_device_train_batch_size × gradient_accumulation_steps × ranks; with "
            "dataloader_num_workers each worker of a stream needs its own whole micro-batches); give more rows, "
            "a smaller batch, or fewer workers"
        )


def check_evaluation_stream(dataset: Any, num_ranks: int) -> None:
    """Refuse to evaluate on a stream that ranks can't share evenly, as it has no length."""
    if isinstance(dataset, IterableDataset) and num_ranks > 1 and not has_length(dataset):
        raise ValueError(
            f"a stream ({type(dataset).__name__}) to evaluate on can't be shared evenly by {num_ranks} ranks; make it "
            "a table: Dataset.from_list(list(stream))"
        )


def num_own_rows(remainder: int, *, batch_size: int, rank: int, num_ranks: int) -> int:
    """Rows of a rank's last evaluation batch that are not repeated: accelerate fills the batch up with the first rows.

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
