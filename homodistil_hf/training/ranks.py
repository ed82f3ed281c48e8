"""Ranks acting together: equal rows and masks, checks that pass or fail on all ranks, and DDP around a sliced student.

A check that fails on one rank only would leave the others waiting in a collective call, so every check here fails on
all of them. Rows of a step are the same on any number of ranks with the same global batch. accelerate deals
micro-batches of a table out to the ranks in turn. It would share a stream of many files by file, so the number of
ranks would change the order, and it would repeat rows at the stream's end. `WholeBatches` prevents both, and
`DealtShards` lets each rank read its own files alone.
"""

import gc
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import datasets
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, is_compiled_module
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset, get_worker_info
from transformers import TrainingArguments

from ..data.shards import num_lanes_of
from ..files.checkpoints import last_checkpoint

T = TypeVar("T")


def on_every_rank(check: Callable[[], T]) -> T:
    """Run a check on every rank; where it fails on one, it fails on all. Collective.

    Raises:
        ValueError: `check` raised on some rank; the message of the first of them.
        OSError: `check` raised it on this rank.
    """
    problem: ValueError | OSError | None = None
    try:
        result = check()
    except (ValueError, OSError) as error:
        problem = error
    # every rank comes here, whether its check failed or not, so none waits for ever
    problems = gather_object([problem and f"{type(problem).__name__}: {problem}"])
    # the rank's own error as it is, else that of the first rank with one
    if problem is not None:
        raise problem
    for rank, message in enumerate(problems):
        if message:
            raise ValueError(f"rank {rank} stopped with {message}")
    return result


def leave_process_group() -> None:
    """End the process group of this process and its threads; without a group nothing happens.

    Wrapped models hold the group in reference cycles, so it outlives `destroy_process_group` until those are
    collected. A thread of it that is still there when the interpreter ends may abort the process.
    """
    PartialState().destroy_process_group()
    gc.collect()


def check_launch(args: TrainingArguments) -> None:
    """Join the other ranks, and refuse several GPUs in one process; `ExactArguments` refuse launches without DDP."""
    if args.n_gpu > 1:  # asking for their number joins
        raise ValueError(
            f"{args.n_gpu} GPUs in one process would use DataParallel, which loses masks and gradients; launch with "
            "torchrun or accelerate, or set CUDA_VISIBLE_DEVICES to one GPU"
        )


def refuse_ranks() -> None:
    """Refuse, by a ValueError, to train by several processes what one of them writes and measures."""
    if (num_ranks := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(f"WORLD_SIZE={num_ranks}: this is for one process; start it without torchrun")


def check_whole_model(name: str, model: nn.Module) -> None:
    """Refuse a sharded model, or one on several devices: units are scored and removed on whole parameters."""
    remedy = "load it whole, and launch with torchrun or accelerate launch: DDP gives each rank a copy"
    parameters = dict(model.named_parameters())
    shards = [parameter for parameter, tensor in parameters.items() if isinstance(tensor, DTensor)]
    if shards:
        raise ValueError(f"{name} has {len(shards)} parameters that are shards, e.g. {shards[0]!r}; {remedy}")
    devices = sorted({str(tensor.device) for tensor in parameters.values()})
    if len(devices) > 1:
        raise ValueError(f"{name} is spread over {', '.join(devices)} (device_map); {remedy}")


def check_same_masks(accelerator: Accelerator, digest: bytes, *, step: int, output_dir: str) -> None:
    """Make sure that all ranks have dropped the same units. Collective.

    Args:
        accelerator: of the run.
        digest: digest of all choices of masks so far, on this rank.
        step: completed steps.
        output_dir: the run's folder, for the message.

    Raises:
        RuntimeError: some rank has other masks; raised on every rank.
    """
    # (ranks, bytes)
    digests = accelerator.gather(torch.tensor(list(digest), device=accelerator.device)[None])
    if not bool((digests == digests[0]).all()):
        raise RuntimeError(
            f"masks differ across ranks after step {step}; all ranks must run the same versions on the same settings. "
            f"Last good checkpoint: {last_checkpoint(output_dir)}"
        )


def check_same_rows(digest: str | None) -> None:
    """Make sure that all ranks have the same rows in the same order, by a digest of them. Collective.

    Raises:
        ValueError: some rank has others; raised on every rank.
    """
    digests = gather_object([digest])
    if len(set(digests)) > 1:
        words = ", ".join(f"rank {rank} {one}" for rank, one in enumerate(digests))
        raise ValueError(
            f"train_dataset differs across ranks ({words}); give all of them the same rows, which the trainer deals "
            "out itself: leave split_dataset_by_node out, and shuffle with a seed"
        )


def wrap_again(wrapped: nn.Module, accelerator: Accelerator, smallest_inputs: Mapping[str, torch.Tensor]) -> None:
    """Let DDP, if a model is wrapped in it, reduce the parameters that its module has now. Collective.

    The same object is initialised again. Trainer's loop holds it, so beside a second one the first would keep the old
    parameters, and twice their size in gradient buckets, to the end of the run. Arguments as [`lay_out_buckets`].
    """
    if (wrapper := _ddp_in(wrapped)) is None:
        return
    handler, device = accelerator.ddp_handler, accelerator.device
    settings = {} if handler is None else handler.to_kwargs()
    device_ids = None if device.type == "cpu" else [device.index]
    wrapper.__init__(wrapper.module, device_ids=device_ids, **settings)  # type: ignore[misc]
    # hooks on gradients were registered with the reducer that is gone
    if handler is not None:
        handler.register_comm_hook(wrapper)
    lay_out_buckets(wrapper, smallest_inputs)


def lay_out_buckets(wrapped: nn.Module, smallest_inputs: Mapping[str, torch.Tensor]) -> None:
    """Let DDP lay out its buckets before the first step instead of after it. Collective.

    DDP reorders its buckets once, by the order in which the first backward pass gave gradients. The place of a
    gradient decides in which order ranks are added up. A resumed run wraps its model at another step than the
    uninterrupted run, so without this call it would differ in the last bits (on three ranks or more).

    Args:
        wrapped: the model as Trainer has wrapped it.
        smallest_inputs: one short row, on the model's device; its loss is never computed.
    """
    wrapper = _ddp_in(wrapped)
    if wrapper is None or wrapper.static_graph or wrapper.find_unused_parameters:  # the last never reorders
        return
    device = next(iter(smallest_inputs.values())).device
    # dropout of this pass must not move the random state of the run
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        wrapper(**smallest_inputs)
    # a loss of 0 that reaches every parameter: DDP waits for the gradients of all
    trained = [parameter for parameter in wrapper.parameters() if parameter.requires_grad]
    torch.stack([0.0 * parameter.sum() for parameter in trained]).sum().backward()
    wrapper.zero_grad(set_to_none=True)


def _ddp_in(wrapped: nn.Module) -> DistributedDataParallel | None:
    """The DDP wrapper of a model as Trainer has wrapped it, compiled or not; None in a single process."""
    bare: Any = wrapped._orig_mod if is_compiled_module(wrapped) else wrapped
    return bare if isinstance(bare, DistributedDataParallel) else None


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
