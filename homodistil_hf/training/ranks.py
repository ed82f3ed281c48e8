"""Checks that all ranks pass or fail together: launch, output folder, checkpoint, giving up.

A check that fails on one rank only would leave the others waiting in a collective call, so every check here fails on
all of them. The arithmetic of rows is not here, nor are DDP and what it reduces.
"""

import gc
import logging
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

from ..files.checkpoints import STAGING_NAME, STATE_TENSORS_FILE, VerifiedCheckpoint, sorted_checkpoints
from ..files.tensors import WEIGHTS_FILE

logger = logging.getLogger(__name__)

T = TypeVar("T")


def on_every_rank(check: Callable[[], T]) -> T:
    """Run a check on every rank; where it fails on one, it fails on all. Collective.

    Args:
        check: may raise `ValueError` or `OSError`.

    Returns:
        What `check` returned on this rank.

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
    """End the process group of this process, and with it its threads; nothing where there is none.

    Wrapped models hold the group in reference cycles, so it outlives `destroy_process_group` until those are
    collected. A thread of it that is still there when the interpreter ends may abort the process.
    """
    PartialState().destroy_process_group()
    gc.collect()


def check_launch(args: TrainingArguments) -> None:
    """Join the other ranks, and refuse launches that don't give each of them a whole copy of the model.

    Args:
        args: the run's settings.

    Raises:
        ValueError: neither one process nor DDP: DeepSpeed, FSDP, Megatron-LM, TPU…
    """
    kind = args.device and args.distributed_state.distributed_type  # asking for the device makes the state
    if kind != DistributedType.NO and not kind.value.startswith("MULTI_"):
        raise ValueError(
            f"distributed_type={kind.value} is not supported by HomoDistilTrainer; use DDP (torchrun or accelerate "
            "launch): pruning needs whole parameters on every rank"
        )


def check_whole_model(name: str, model: nn.Module) -> None:
    """Refuse a model whose parameters are spread out: units are scored and removed on whole parameters.

    Args:
        name: the argument, for the message.
        model: as it was given.

    Raises:
        ValueError: some parameters are shards (tensor parallelism, FSDP), or they are on several devices.
    """
    remedy = "load it whole, and launch with torchrun or accelerate launch: DDP gives each rank a copy"
    parameters = dict(model.named_parameters())
    shards = [parameter for parameter, tensor in parameters.items() if isinstance(tensor, DTensor)]
    if shards:
        raise ValueError(f"{name} has {len(shards)} parameters that are shards, e.g. {shards[0]!r}; {remedy}")
    devices = sorted({str(tensor.device) for tensor in parameters.values()})
    if len(devices) > 1:
        raise ValueError(f"{name} is spread over {', '.join(devices)} (device_map); {remedy}")


def names_on_all_ranks(names: list[str]) -> list[str]:
    """What ranks have found in their output folders, put together. Collective.

    Args:
        names: found on this rank.

    Returns:
        `list[str]`: sorted, without repetitions.
    """
    return sorted(set(gather_object(list(names))))


def check_shared_folder(output_dir: str, *, save_on_each_node: bool) -> None:
    """Make sure that checkpoints can be written once and read by all ranks. Collective; writes a file and removes it.

    Args:
        output_dir: exists on every node.
        save_on_each_node: the setting; every node then writes its own checkpoints.

    Raises:
        ValueError: some rank doesn't see the folder of rank 0, and nodes don't save on their own; or they do, into one
            folder.
    """
    if PartialState().num_processes == 1:
        return
    sightings = _sightings(Path(output_dir) / STAGING_NAME)
    blind = [rank for rank, sighting in enumerate(sightings) if not sighting["seen"]]
    if blind and not save_on_each_node:
        raise ValueError(
            f"output_dir={output_dir!r} of rank {blind[0]} on {sightings[blind[0]]['host']} is not the folder that "
            f"rank 0 on {sightings[0]['host']} writes to, so checkpoints could not be resumed; name a folder that all "
            "nodes share, or set save_on_each_node=True to keep a copy of each checkpoint on every node"
        )
    writers = [rank for rank, sighting in enumerate(sightings) if sighting["seen"] and sighting["local_rank"] == 0]
    if save_on_each_node and len(writers) > 1:
        raise ValueError(
            f"save_on_each_node=True, but the nodes of ranks {writers} share output_dir={output_dir!r} and would "
            "write the same files; leave it out"
        )


def _sightings(folder: Path) -> list[Mapping[str, Any]]:
    """By rank: whether a file of rank 0 is seen, and where the rank is."""
    state = PartialState()
    probe = folder / f"probe-{gather_object([secrets.token_hex(8)])[0]}"

    def leave() -> None:
        folder.mkdir(exist_ok=True)
        probe.touch()

    on_every_rank(leave if state.is_main_process else lambda: None)
    own = {"seen": probe.exists(), "local_rank": state.local_process_index, "host": socket.gethostname()}
    sightings = gather_object([own])
    if state.is_main_process:
        probe.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    return sightings


def newest_common(folder: str, output_dir: str) -> str:
    """What ranks resume from, when "last" means another checkpoint on another node."""
    if len(set(gather_object([Path(folder).name]))) == 1:
        return folder
    own = [path.name for path in sorted_checkpoints(output_dir)]
    others = gather_object([own])
    for name in own:
        if all(name in names for names in others):
            logger.warning("resuming from %s, the newest checkpoint that every node has", name)
            return str(Path(output_dir) / name)
    raise ValueError(
        f"nodes have no checkpoint in common in output_dir={output_dir!r}: rank 0 has {others[0][:3]}, others have "
        f"{sorted({name for names in others[1:] for name in names})[:3]}; copy one to every node"
    )


def check_same_checkpoint(checkpoint: VerifiedCheckpoint) -> None:
    """Make sure that all ranks see the same checkpoint. Collective.

    Args:
        checkpoint: on this rank.

    Raises:
        ValueError: weights or scores differ between ranks.
    """
    digests = gather_object([[checkpoint.digests.get(name) for name in (WEIGHTS_FILE, STATE_TENSORS_FILE)]])
    others = [rank for rank, own in enumerate(digests) if own != digests[0]]
    if others:
        raise ValueError(
            f"resume_from_checkpoint={str(checkpoint.folder)!r} of rank {others[0]} is not the checkpoint that "
            "rank 0 has; copy rank 0's to every node"
        )
