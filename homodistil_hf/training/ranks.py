"""Ranks acting together: checks that pass or fail on all ranks, equal masks, and DDP around a student that is sliced.

A check that fails on one rank only would leave the others waiting in a collective call, so every check here fails on
all of them. The arithmetic of rows is in `rows.py`.
"""

import gc
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, gather_object, is_compiled_module
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
    problems = gather_object([problem and f"{type(problem).__name__}: {problem}"])
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
    """Join the other ranks, and refuse launches that don't give each of them a whole copy of the model."""
    kind = args.device and args.distributed_state.distributed_type  # asking for the device makes the state
    if kind != DistributedType.NO and not kind.value.startswith("MULTI_"):
        raise ValueError(
            f"distributed_type={kind.value} is not supported by this package's trainers; use DDP (torchrun or "
            "accelerate launch): pruning needs whole parameters on every rank"
        )


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
    digests = accelerator.gather(torch.tensor(list(digest), device=accelerator.device)[None])
    if not bool((digests == digests[0]).all()):
        raise RuntimeError(
            f"masks differ across ranks after step {step}; all ranks must run the same versions on the same settings. "
            f"Last good checkpoint: {last_checkpoint(output_dir)}"
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
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        wrapper(**smallest_inputs)
    trained = [parameter for parameter in wrapper.parameters() if parameter.requires_grad]
    torch.stack([0.0 * parameter.sum() for parameter in trained]).sum().backward()
    wrapper.zero_grad(set_to_none=True)


def _ddp_in(wrapped: nn.Module) -> DistributedDataParallel | None:
    """The DDP wrapper of a model as Trainer has wrapped it, compiled or not; None in a single process."""
    bare: Any = wrapped._orig_mod if is_compiled_module(wrapped) else wrapped
    return bare if isinstance(bare, DistributedDataParallel) else None
