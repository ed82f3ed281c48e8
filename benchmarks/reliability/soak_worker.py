"""The run that is killed: `homodistil distill` with a watched phase and a planned moment of death.

All patches are made in the worker's own process. A few shared bytes say where a kill of a random time hits. The rare
moments are forced: the worker sends itself SIGKILL inside the n-th call of a function.
"""

import functools
import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import modeling_utils

from homodistil_hf import cli, trainer
from homodistil_hf.export import export_folder as export
from homodistil_hf.files import checkpoints as checkpoint
from homodistil_hf.files import folders as durable
from homodistil_hf.pruning import pruner as pruning
from homodistil_hf.pruning.scores import SensitivityScores
from homodistil_hf.runs import student as launch
from homodistil_hf.training import exact_trainer, run_folder
from homodistil_hf.training.distillation_trainer import DistillationTrainer

Call = Callable[[], Any]


@dataclass(frozen=True)
class Moment:
    """A function, looked up in a module or class, in one of whose first calls a worker dies."""

    owner: Any
    function: str
    action: Callable[[Call, tuple[Any, ...]], None]  # takes the call and its arguments, does what is done by then
    where: str = ""  # text that an argument must contain
    most_calls: int = 1


def before(call: Call, arguments: tuple[Any, ...]) -> None:
    """Nothing of the call is done."""


def half_written(call: Call, arguments: tuple[Any, ...]) -> None:
    """The file that the call writes gets to its middle."""
    call()
    path = next(Path(a) for a in arguments if isinstance(a, str | Path))
    path = path / checkpoint.MANIFEST_NAME if path.is_dir() else path
    os.truncate(path, path.stat().st_size // 2)


def half_removed(call: Call, arguments: tuple[Any, ...]) -> None:
    """Every second file of the folder is gone."""
    for path in sorted(path for path in Path(arguments[0]).rglob("*") if path.is_file())[::2]:
        path.unlink()


def half_text(call: Call, arguments: tuple[Any, ...]) -> None:
    """The first half of a JSON text stands beside the file that it is to replace."""
    path, text = arguments[0], json.dumps(arguments[1])
    durable.aside_name(path).write_text(text[: len(text) // 2], encoding="utf-8")


MOMENTS: dict[str, Moment] = {
    "slicing: masks are chosen, nothing is sliced": Moment(pruning, "compact", before, most_calls=2),
    "slicing: parameters are sliced, scores are not": Moment(SensitivityScores, "keep", before),
    "slicing: the trainer has the old heads": Moment(DistillationTrainer, "on_resized", before),
    "step: gradients are there, scores are not": Moment(pruning.Pruner, "score", before, most_calls=6),
    "step: scores are updated, weights are not": Moment(torch.optim.AdamW, "step", before, most_calls=6),
    "step: weights are updated, masks not chosen": Moment(pruning.Pruner, "step", before, most_calls=6),
    "checkpoint: half of the weights": Moment(
        modeling_utils, "safe_save_file", half_written, where="checkpoint-", most_calls=2
    ),
    "checkpoint: half of the optimizer's state": Moment(
        torch, "save", half_written, where="optimizer.pt", most_calls=2
    ),
    "checkpoint: half of the scores": Moment(
        exact_trainer, "save_file", half_written, where=checkpoint.SCORES_FILE, most_calls=2
    ),
    "checkpoint: no manifest": Moment(run_folder, "write_manifest", before, most_calls=2),
    "checkpoint: half a manifest": Moment(run_folder, "write_manifest", half_written, most_calls=2),
    "checkpoint: between manifest and rename": Moment(run_folder, "publish", before, most_calls=2),
    "checkpoint: renamed, older ones still there": Moment(run_folder, "rotate", before, most_calls=2),
    "rotation: about to begin": Moment(checkpoint, "remove_folder", before, most_calls=2),
    "rotation: half removed": Moment(durable.shutil, "rmtree", half_removed, where=".removed", most_calls=2),
    "evaluation: between two batches": Moment(DistillationTrainer, "prediction_step", before, most_calls=4),
    "resuming: nothing is loaded": Moment(trainer.HomoDistilTrainer, "read_state", before),
    "resuming: widths are there, scores are not": Moment(pruning.Pruner, "load_state", before),
    "export: half of the weights": Moment(modeling_utils, "safe_save_file", half_written, where=".student."),
    "export: no facts": Moment(export, "write_json", before),
    "export: before the rename": Moment(durable, "publish", before),
    "export: done, results are not": Moment(launch, "write_json", half_text, where="results.json"),
}

PHASES: tuple[tuple[str, Any, str], ...] = (
    ("resuming", DistillationTrainer, "_load_from_checkpoint"),
    ("training", trainer.HomoDistilTrainer, "begin_training"),
    ("step", trainer.HomoDistilTrainer, "training_step"),
    ("step", torch.optim.AdamW, "step"),
    ("step", trainer.HomoDistilTrainer, "end_step"),
    ("slicing", pruning.Pruner, "prune_to"),
    ("evaluation", DistillationTrainer, "evaluation_loop"),
    ("checkpoint", DistillationTrainer, "_save_checkpoint"),
    ("rotation", run_folder, "rotate"),
    ("export", export, "export_student"),
)
"""Phases of a worker, as (name, owner, function); between them it is in "training" or "start"."""

PHASE_NAMES = ("start", *dict.fromkeys(name for name, _, _ in PHASES))


class Board:
    """Bytes that worker and parent share: the worker's phase and step."""

    _LAYOUT = struct.Struct("<BI")

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, mmap.PAGESIZE)

    def write(self, phase: str, step: int) -> None:
        """Write phase and step."""
        self._LAYOUT.pack_into(self._bytes, 0, PHASE_NAMES.index(phase), step)

    def read(self) -> tuple[str, int]:
        """Phase and step."""
        phase, step = self._LAYOUT.unpack_from(self._bytes, 0)
        return PHASE_NAMES[phase], step


def work(words: list[str], log: Path, board: Board, *, moment: str | None, call: int) -> int:
    """Run a command of `homodistil` in a forked process, and die in that call (from 1) of the moment's function.

    What the command prints goes to the log; its exit status is returned.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(descriptor, stream.fileno())
    for phase, owner, function in PHASES:
        _watch(board, phase, owner, function)
    if moment is not None:
        _die_at(MOMENTS[moment], call)
    return cli.main(words)


def _watch(board: Board, phase: str, owner: Any, function: str) -> None:
    original = getattr(owner, function)

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        earlier, step = board.read()
        if args and isinstance(args[0], trainer.HomoDistilTrainer):
            step = args[0].state.global_step
        board.write(phase, step)
        result = original(*args, **kwargs)
        board.write(phase if phase == "training" else earlier, step)
        return result

    setattr(owner, function, watched)


def _die_at(moment: Moment, number: int) -> None:
    original = getattr(moment.owner, moment.function)
    calls = 0

    @functools.wraps(original)
    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += moment.where in " ".join(str(a) for a in args if isinstance(a, str | Path))
        if calls < number:
            return original(*args, **kwargs)
        moment.action(functools.partial(original, *args, **kwargs), args)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(moment.owner, moment.function, dying)
