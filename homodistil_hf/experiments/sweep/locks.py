"""Two processes never train the same cell: the lock of a cell is the operating system's, and goes with its process.

However a process ends, its locks are free from that moment on, so none is ever stale.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

_HOLDER_SUFFIX = ".pid"


@contextmanager
def held(lock_file: Path) -> Iterator[bool]:
    """Hold a lock while inside, unless another process has it; yield whether it is ours."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(lock_file).acquire(blocking=False)
    except Timeout:
        yield False
        return
    with lock:
        lock_file.with_suffix(_HOLDER_SUFFIX).write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield True


def holder(lock_file: Path) -> int | None:
    """The process that holds a lock, -1 where it has not said its number yet; None where the lock is free."""
    if not lock_file.parent.is_dir():
        return None
    try:
        with FileLock(lock_file).acquire(blocking=False):
            return None
    except Timeout:
        return _number_in(lock_file.with_suffix(_HOLDER_SUFFIX))


def _number_in(file: Path) -> int:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return -1
