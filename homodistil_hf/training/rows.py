"""A `Trainer` whose ranks share the rows of a step: the same ones on any number of ranks with the same global batch.

accelerate deals micro-batches out to the ranks in turn. What it can't do is end a pass without repeating rows, and it
would share a stream of many files by file, so that another number of ranks meant another order. Both are mended here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset, get_worker_info
from transformers.trainer_utils import has_length

from ..files.checkpoints import VerifiedCheckpoint
from .ranks import check_same_checkpoint, logger, newest_common, on_every_rank
from .resumable import Requested, ResumableTrainer


class RankedTrainer(ResumableTrainer):
    """`ResumableTrainer` whose steps see the same rows on any number of ranks with the same global batch."""

    repeats_only = False
    """Whether all rows of this rank's last micro-batch are repetitions that even out the ranks."""
    _settled: nn.Module | None = None

    @property
    def rows_per_step(self) -> int:
        """The global batch: rows an optimizer step, over all micro-batches and ranks."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    @property
    def place(self) -> dict[str, int]:
        """Of this process among all: `rank` and `num_ranks`."""
        return {"rank": self.args.process_index, "num_ranks": self.args.world_size}

    def without_repeats(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Take the rows out that accelerate adds to the last micro-batch of a pass, so that ranks are even.

        A rank that has only such rows keeps one, as it must take part, and `repeats_only` says that it doesn't count.

        Args:
            batches: the micro-batches of one step, as they were fetched.

        Returns:
            `list[dict]`: the same, the last one maybe shorter.
        """
        self.repeats_only = False
        at_end = bool(batches) and self.accelerator.gradient_state.end_of_dataloader
        if not at_end or self.args.dataloader_drop_last or isinstance(self.train_dataset, IterableDataset):
            return batches
        num_rows = num_own_rows(len(self.train_dataset), batch_size=self.args.train_batch_size, **self.place)
        self.repeats_only = num_rows == 0
        return [*batches[:-1], first_rows(batches[-1], max(1, num_rows))]

    def _get_num_items_in_batch(self, *args: Any, **kwargs: Any) -> None:
        # The trainer counts predictions, tokens and pairs itself, and adds them up over ranks in one message.
        return None

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        # accelerate would share a stream of several files by file, and repeat rows at its end.
        if isinstance(dataset, IterableDataset):
            if kwargs.get("is_training"):
                dataset = WholeSteps(dataset, num_rows=self.rows_per_step)
            elif self.args.world_size > 1 and not has_length(dataset):
                raise ValueError(
                    f"a stream ({type(dataset).__name__}) to evaluate on can't be shared evenly by "
                    f"{self.args.world_size} ranks; make it a table: Dataset.from_list(list(stream))"
                )
        drops = self.args.dataloader_drop_last
        # transformers 5.23 would drop the last rows of an evaluation, too.
        self.args.dataloader_drop_last = drops and kwargs.get("is_training", False)
        try:
            return super()._get_dataloader(dataset, *args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drops

    def settle_buckets(self, model: DistributedDataParallel) -> None:
        """Let DDP lay out its buckets before the first step instead of after it. Collective; once a wrapper.

        DDP orders them anew by the order in which the first backward pass gave gradients, and where a gradient lies
        decides in which order ranks are added up. A resumed run wraps its model at another step than the run that it
        goes on with, so it would differ in the last bits (on three ranks or more).

        Args:
            model: just wrapped.
        """
        if model is self._settled or model.static_graph:
            return
        self._settled = model
        device = self.args.device
        with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
            model(input_ids=torch.zeros(1, 1, dtype=torch.int64, device=device))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        torch.stack([0.0 * parameter.sum() for parameter in trained]).sum().backward()
        model.zero_grad(set_to_none=True)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.save_on_each_node:
            super()._save(output_dir, state_dict)
            return
        # transformers 5.23 asks the model, which says yes on rank 0 only: other nodes would get no weights.
        self.model.should_save_on_this_rank = bool
        try:
            super()._save(output_dir, state_dict)
        finally:
            del self.model.should_save_on_this_rank

    def log_state(self) -> dict[str, Any]:
        """As [`ResumableTrainer.log_state`], with the global batch.

        Returns:
            `dict` of JSON values.
        """
        return super().log_state() | {"rows_per_step": self.rows_per_step}

    def restore_log_state(self) -> None:
        """As [`ResumableTrainer.restore_log_state`]; a run that goes on with another global batch is warned."""
        super().restore_log_state()
        earlier = (self.resumed_logs or {}).get("rows_per_step", self.rows_per_step)
        if earlier != self.rows_per_step:
            logger.warning(
                "resumed with %d rows a step, the checkpoint has %d: the run will differ from an uninterrupted one; "
                "keep per_device_train_batch_size × gradient_accumulation_steps × ranks",
                self.rows_per_step,
                earlier,
            )

    def _resolve_checkpoint(self, requested: Requested) -> str | None:
        folder = on_every_rank(lambda: super(RankedTrainer, self)._resolve_checkpoint(requested))
        return None if folder is None else newest_common(folder, self.args.output_dir)

    def _verified(self, folder: str, requested: Requested) -> VerifiedCheckpoint:
        checkpoint = on_every_rank(lambda: super(RankedTrainer, self)._verified(folder, requested))
        check_same_checkpoint(checkpoint)
        return checkpoint


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
