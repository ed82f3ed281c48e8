"""A `Trainer` whose ranks agree: on the rows of a step, on the output folder, on the checkpoint, and on giving up.

A check that fails on one rank only would leave the others waiting in a collective call, so every check here fails on
all of them. The arithmetic of rows is `sharing.py`'s; DDP and what it reduces are `trainer.py`'s.
"""

import gc
import logging
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import IterableDataset
from transformers import TrainingArguments
from transformers.trainer_utils import has_length

from .checkpoint import STAGING_NAME, check_manifest, file_digest, sorted_checkpoints
from .resumable import ResumableTrainer
from .run_state import STATE_TENSORS_FILE, WEIGHTS_FILE
from .sharing import WholeSteps, first_rows, num_own_rows

logger = logging.getLogger(__name__)

T = TypeVar("T")


class RankedTrainer(ResumableTrainer):
    """`ResumableTrainer` whose steps see the same rows on any number of ranks with the same global batch."""

    repeats_only = False
    """Whether all rows of this rank's last micro-batch are repetitions that even out the ranks."""
    _settled: nn.Module | None = None

    @property
    def rows_per_step(self) -> int:
        """The global batch: rows an optimizer step, over all micro-batches and ranks."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

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
        num_rows = num_own_rows(
            len(self.train_dataset),
            batch_size=self.args.train_batch_size,
            rank=self.args.process_index,
            num_ranks=self.args.world_size,
        )
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
        return super()._get_dataloader(dataset, *args, **kwargs)

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

    def _resolve_checkpoint(self, requested: str | bool | None) -> str | None:
        folder = on_every_rank(lambda: super(RankedTrainer, self)._resolve_checkpoint(requested))
        if folder is None or self.args.world_size == 1:
            return folder
        folder = _newest_common(folder, self.args.output_dir)
        on_every_rank(lambda: check_manifest(folder))
        _check_same_checkpoint(folder)
        return folder


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


def _newest_common(folder: str, output_dir: str) -> str:
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


def _check_same_checkpoint(folder: str) -> None:
    names = (WEIGHTS_FILE, STATE_TENSORS_FILE)
    digests = gather_object([[file_digest(Path(folder) / name) for name in names if (Path(folder) / name).is_file()]])
    others = [rank for rank, own in enumerate(digests) if own != digests[0]]
    if others:
        raise ValueError(
            f"resume_from_checkpoint={folder!r} of rank {others[0]} is not the checkpoint that rank 0 has; copy "
            "rank 0's to every node"
        )
