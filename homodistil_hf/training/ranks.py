"""Ranks acting together: equal rows and masks, checks that pass or fail on all ranks, and DDP around a sliced student.

A check that fails on one rank only would leave the others waiting in a collective call, so every check here fails on
all of them. Rows of a step are the same on any number of ranks with the same global batch. accelerate deals
micro-batches of a table out to the ranks in turn; streams.py does so with a stream.
"""

import gc
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object, is_compiled_module
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments

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
