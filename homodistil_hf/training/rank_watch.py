"""A rank that hangs or dies is named on every other rank, with the timeout and the last good checkpoint.

torch names neither: gloo raises an error of a connection after `ddp_timeout`, and NCCL's watchdog ends the process
then. So each rank writes into the store of the launch, every few seconds, how many collective calls it has begun. A
rank that no longer writes is dead; one that has begun fewer calls than the others keeps them waiting. Where a call
has taken half of `ddp_timeout`, a warning tells so: with NCCL no Python code of a waiting rank may run later.
"""

import atexit
import itertools
import logging
import os
import threading
import time
from datetime import timedelta
from typing import Any, ClassVar

from torch import distributed
from transformers import TrainingArguments

from ..files.checkpoints import last_checkpoint
from .sigterm import StopRequest

logger = logging.getLogger(__name__)

_LONGEST_PERIOD_S = 2.0
_NUM_PERIODS = 3
"""A rank is dead that has not written for so many periods. torchrun gives 30 s before it kills the other ranks."""

_FOUND = "found"
_STORE_IS_LOST = "rank 0 or its node, which keeps the ranks' store, is dead or out of reach"


class RankWatch(threading.Thread):
    """Writes this rank's signs of life, and reads those of the others once there is reason to.

    Args:
        args: of the run; `ddp_timeout` in seconds.
        store: of the launch, by a connection of its own: the group's may be locked while a call waits.
    """

    current: ClassVar["RankWatch | None"] = None

    def __init__(self, args: TrainingArguments, store: distributed.Store):
        super().__init__(name="rank watch", daemon=True)
        self.args, self.store = args, store
        self.group: Any = distributed.group.WORLD
        self.rank, self.num_ranks = distributed.get_rank(), distributed.get_world_size()
        self.period_s = min(_LONGEST_PERIOD_S, args.ddp_timeout / 10)
        self.ended = threading.Event()
        self._numbers = itertools.count()

    def run(self) -> None:
        """Write until the end, and warn once of each call that takes long."""
        num_calls, since_s, is_told = -1, 0.0, False
        while not self.ended.wait(self.period_s):
            try:
                newest = self.write()
                # another call has begun: its wait counts from now
                if newest != num_calls:
                    num_calls, since_s, is_told = newest, time.monotonic(), False
                elif not is_told and time.monotonic() - since_s > self.args.ddp_timeout / 2:
                    is_told = True
                    if lost := self.lost_ranks():
                        logger.warning("rank %d has waited for %.0f s: %s", self.rank, self.args.ddp_timeout / 2, lost)
            except RuntimeError:  # the store has gone; a call that fails of it finds that out itself
                return

    def end(self) -> None:
        """Stop writing; to be called before the interpreter ends, which a thread inside torch may abort."""
        self.ended.set()
        if self.is_alive():
            self.join()

    def write(self) -> int:
        """Write a sign of life: a new number each time, and the number of collective calls, which is returned."""
        num_calls = self.group._get_sequence_number_for_group()
        self.store.set(str(self.rank), f"{next(self._numbers)} {num_calls}")
        return num_calls

    def agreed(self) -> str:
        """What the first rank to look found, as `lost_ranks`: a rank that has found it leaves, and looks dead then."""
        try:
            if not self.store.check([_FOUND]):
                self.store.set(_FOUND, self.lost_ranks())
            return self.store.get(_FOUND).decode()
        except RuntimeError:
            return _STORE_IS_LOST

    def lost_ranks(self) -> str:
        """Watch all ranks for some periods; say which are dead, or else which are behind; empty if none is."""
        try:
            # this rank goes on writing meanwhile, or others would take it for dead
            before = self._signs()
            for _ in range(_NUM_PERIODS):
                time.sleep(self.period_s)
                self.write()
            after = self._signs()
        except RuntimeError:
            return _STORE_IS_LOST
        others = [rank for rank in range(self.num_ranks) if rank != self.rank]
        # each sign has a new number, so a rank with an equal one has written nothing
        if silent := [rank for rank in others if after[rank] == before[rank]]:
            return f"{_named(silent)} gave no sign of life for {_NUM_PERIODS * self.period_s:g} s: dead, or frozen"
        # this rank waits in its newest call, which those that are behind haven't begun
        calls = [int(sign.split()[1]) for sign in after]
        behind = [rank for rank in others if calls[rank] < calls[self.rank]]
        return f"the other ranks wait for {_named(behind)}, alive but busy or hanging" if behind else ""

    def _signs(self) -> list[str]:
        keys = [str(rank) for rank in range(self.num_ranks)]
        return [self.store.get(key).decode() if self.store.check([key]) else "" for key in keys]


def watch(args: TrainingArguments) -> None:
    """Let calls wait for `ddp_timeout` of the newest run, and write signs of life; there are several ranks."""
    # transformers hands the timeout over to the first run of a process only, and not at all with use_cpu.
    distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=args.ddp_timeout))
    current = RankWatch.current
    if current is not None and current.group is distributed.group.WORLD and current.is_alive():
        current.args = args
        return
    end_watch()
    if "MASTER_PORT" not in os.environ:
        return
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a launcher keeps its store when it starts again
    store = distributed.PrefixStore(f"rank_watch/{attempt}", distributed.TCPStore(*address, wait_for_workers=False))
    current = RankWatch.current = RankWatch(args, store)
    current.write()
    current.start()
    atexit.register(current.end)


def end_watch() -> None:
    """Stop writing signs of life."""
    if RankWatch.current is not None:
        RankWatch.current.end()
    RankWatch.current = None


def lost_ranks_error() -> ConnectionError | None:
    """The error of a broken connection, which names the ranks at fault; None where no ranks are watched."""
    watch = RankWatch.current
    if watch is None:
        return None
    with StopRequest():  # a launcher sends SIGTERM as soon as one rank has died
        lost = watch.agreed() or f"rank {watch.rank} joined the others too late, or the network failed"
        good = last_checkpoint(str(watch.args.output_dir))
        if watch.rank == 0:  # without a launcher's own, the store ends with this process
            time.sleep(_NUM_PERIODS * watch.period_s)
    remedy = "go on with resume_from_checkpoint=last" if good else "start again"
    return ConnectionError(
        f"{lost} (ddp_timeout={watch.args.ddp_timeout:g} s; raise it if that rank was only slow). Last good "
        f"checkpoint: {good}; read that rank's log, then {remedy}"
    )


def _named(ranks: list[int]) -> str:
    return ("rank " if len(ranks) == 1 else "ranks ") + ", ".join(map(str, ranks))
