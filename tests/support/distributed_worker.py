"""The worlds of ranks that `test_distributed.py` compares.

Starting a process takes longest, so one process imports everything and then forks the ranks of one group of worlds
after the other; the runs of a world follow each other in the same processes. Each leaves a file a rank. What the runs
are: `distributed_runs.py`.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from distributed_runs import LOST_RANKS, RUNS, WORLD_SIZES, shared_on
from ranks import free_port, launched_as
from torch.multiprocessing import ProcessContext, start_processes


@dataclass(frozen=True)
class World:
    """Ranks that run something together.

    Args:
        name: of the files that they leave.
        num_ranks: of all nodes.
        runs: what they do, in order.
    """

    name: str
    num_ranks: int
    runs: tuple[str, ...]


_ONE, *_MANY = (World(str(size), size, (*shared_on(size), "passes", "evaluated rows")) for size in WORLD_SIZES)
GROUPS = (
    (_ONE, *(World(name, 4, (name,)) for name in LOST_RANKS)),  # lost ranks are waited for most of the time
    *((world,) for world in _MANY),
    (
        World("4 more", 4, ("resume: 4 ranks", "other masks")),
        World(
            "2 more", 2, ("resume: 2 ranks", "resume: 4 → 2", "resume: 1 → 2", "stream: 4 → 2", "resume", "best model")
        ),
        World("2 bad", 2, ("one bad rank", "other masks", "refusals")),
        World("2 alive", 2, ("reducers",)),
        World("1 more", 1, ("resume: 2 → 1",)),
    ),
)
"""Worlds of a group run side by side; the last ones resume checkpoints of those before."""


def run_worlds(folder: Path, names: Sequence[str]) -> None:
    """Run the named worlds, or all; results go to `FOLDER/WORLD/RUN-RANK.pt`."""
    for group in GROUPS:
        started = [_start(world, folder) for world in group if not names or world.name in names]
        for ranks in started:
            while not ranks.join():
                pass


def _start(world: World, folder: Path) -> ProcessContext:
    (folder / world.name).mkdir(parents=True)
    given = (world, free_port(), folder)
    return start_processes(run_rank, given, world.num_ranks, join=False, start_method="fork")


def run_rank(rank: int, world: World, port: int, folder: Path) -> None:
    """One rank of a world, from joining to leaving."""
    torch.manual_seed(0)
    if world.num_ranks > 1:
        os.environ |= launched_as(rank, world.num_ranks, port)
    for name in world.runs:
        torch.save(RUNS[name](folder, world.num_ranks), folder / world.name / f"{name}-{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
