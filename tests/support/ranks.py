"""Several processes of one program on this machine, as under torchrun, and what torchrun itself has started.

A launcher and two ranks would import torch and this package three times. Here one process imports them for all tests,
and its forks are the ranks. `tests/package/test_launchers.py` and `tests/training/test_sigterm.py` have torchrun
itself.
"""

import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from forked_python import ForkedPython
from torch.multiprocessing import start_processes


class Ranks:
    """Runs programs of several ranks.

    Args:
        forked: has imported this package.
    """

    def __init__(self, forked: ForkedPython):
        self.forked = forked

    def __call__(self, *words: object, num_ranks: int = 2) -> subprocess.CompletedProcess[str]:
        """Run `python WORDS` on several ranks to the end; the exit status is the caller's to look at."""
        return self.run(f"from ranks import run_ranks; run_ranks({num_ranks}, {[*map(str, words)]})", timeout=600)

    def run(self, code: str, *, timeout: float, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        """Run `python -c CODE` once, in a process that may fork ranks; it imports what tests import."""
        paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **env}
        return self.forked.run([sys.executable, "-c", code], cwd=Path.cwd(), env=env, timeout=timeout, check=False)


def run_ranks(num_ranks: int, words: list[str]) -> None:
    """Fork the ranks of `python WORDS`, and wait for all of them."""
    start_processes(_run_rank, (num_ranks, free_port(), words), num_ranks, start_method="fork")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launched_as(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """What torchrun would have set."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    return {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def children(process: int) -> list[int]:
    """Ids of the processes that a process has started; torchrun's are its ranks, in sessions of their own."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _run_rank(rank: int, num_ranks: int, port: int, words: list[str]) -> None:
    os.environ |= launched_as(rank, num_ranks, port)
    option, *rest = words
    if option == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(option, run_name="__main__")
