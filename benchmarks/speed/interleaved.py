"""Several trainers in one process whose optimizer steps are interleaved.

Every trainer runs its own `train()` in a thread of its own. A callback holds it where a step begins; the main thread
lets exactly one of them go on until it arrives at its next step. So the timed code is the trainer's real loop, with
data loading, logging and callbacks.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Trainer, TrainerCallback


class Interleaved(Protocol):
    """One of several things that are timed by turns."""

    def advance(self) -> float:
        """Do one thing once; returns its seconds."""


class _Stopped(Exception):
    """Ends the loop of a trainer in the middle; no error."""


class _Gate(TrainerCallback):
    """Holds a trainer where a step begins: the batch has been fetched, nothing has been computed."""

    def __init__(self, synchronize: Callable[[], None]):
        self.synchronize = synchronize
        self.arrived, self.released = threading.Semaphore(0), threading.Semaphore(0)
        self.seconds = 0.0
        self.within: AbstractContextManager | None = None
        self.is_closed = False
        self._started: float | None = None
        self._stack = ExitStack()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.synchronize()
        if self._started is not None:
            self.seconds = time.perf_counter() - self._started
        self._stack.close()
        self.arrived.release()
        self.released.acquire()
        if self.is_closed:
            raise _Stopped
        # Profilers see the thread that they were started in.
        if self.within is not None:
            self._stack.enter_context(self.within)
        self.synchronize()
        self._started = time.perf_counter()


class GatedRun:
    """A training that goes on step by step; the trainer is not started, and its data lasts for all steps."""

    def __init__(self, name: str, trainer: Trainer):
        self.name = name
        self.trainer = trainer
        device = trainer.args.device
        self._gate = _Gate((lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None))
        trainer.add_callback(self._gate)
        self._num_threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        # In this thread's context: torch keeps settings of its compiler there.
        self._training = self._pool.submit(copy_context().run, self._train)
        self._training.add_done_callback(lambda _: self._gate.arrived.release())
        self._wait()

    def advance(self, within: AbstractContextManager | None = None) -> float:
        """Let the trainer do one optimizer step, up to the beginning of the next; returns its seconds.

        `within` is entered in the trainer's thread before the step and left after it, untimed.
        """
        self._gate.within = within
        self._gate.released.release()
        self._wait()
        return self._gate.seconds

    def close(self) -> None:
        """End the training where it stands."""
        self._gate.is_closed = True
        self._gate.released.release()
        self._pool.shutdown()
        self.trainer.remove_callback(self._gate)

    def _train(self) -> None:
        # OpenMP keeps the number of threads for each thread.
        torch.set_num_threads(self._num_threads)
        self.trainer.train()

    def _wait(self) -> None:
        self._gate.arrived.acquire()
        if self._training.done():
            self._training.result()
            raise RuntimeError(f"{self.name} ended after {self.trainer.state.global_step} steps; give it more data")


def interleave(variants: Mapping[str, Interleaved], *, rounds: int, warmup_rounds: int) -> dict[str, list[float]]:
    """Advance all variants once a round, in an order drawn for each round; returns the seconds of the timed rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for round_number in range(warmup_rounds + rounds):
        random.Random(round_number).shuffle(names)
        for name in names:
            duration = variants[name].advance()
            if round_number >= warmup_rounds:
                seconds[name].append(duration)
    return seconds


@contextmanager
def on_one_memory_node(nodes: Path = Path("/sys/devices/system/node")) -> Iterator[list[int]]:
    """Within the block this thread, and those that it starts, stay on the cores of one memory node.

    The host starts a GPU's kernels, and a core is slower at the memory of another node. Without it a variant is fast
    or slow by the node on which its thread happens to be.

    Yields:
        `list` of the cores: those of the node with the most that this process may use; empty where nodes aren't known.
    """
    if not (nodes.is_dir() and hasattr(os, "sched_setaffinity")):
        yield []
        return
    allowed = os.sched_getaffinity(0)
    of_nodes = [_cores(file.read_text(encoding="ascii")) & allowed for file in sorted(nodes.glob("node*/cpulist"))]
    cores = max(of_nodes, key=len, default=set())
    if not cores:
        yield []
        return
    os.sched_setaffinity(0, cores)
    try:
        yield sorted(cores)
    finally:
        os.sched_setaffinity(0, allowed)


def _cores(ranges: str) -> set[int]:
    """The numbers in the kernel's form: `0-3,8` is 0, 1, 2, 3 and 8."""
    ends = [entry.partition("-") for entry in ranges.strip().split(",") if entry]
    return {core for first, _, last in ends for core in range(int(first), int(last or first) + 1)}
