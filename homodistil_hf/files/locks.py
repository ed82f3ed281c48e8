"""Claims: of several processes, one at a time works in a folder.

The lock is the operating system's and goes with its process: however a process ends, its locks are free from that
moment on, so none is ever stale. Where a system call for locks is missing, filelock keeps a file with process and host
instead, and takes over those of processes that are gone.
"""

import errno
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .inside import write_anew

logger = logging.getLogger(__name__)
LOCK_SUFFIX, HOLDER_SUFFIX = ".lock", ".pid"
_CLAIMS: set[tuple[int, int, Path]] = set()
"""Process, thread and lock of each claim that is held here."""
_HAS_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def claimed(lock_file: Path, label: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock while inside; within a claim of this thread the same claim changes nothing.

    `label`, argument and value of the folder, begins the message; `wait_s` are the seconds that another is waited for.

    Raises:
        ValueError: another process or thread has it.
        OSError: the lock can't be written.
    """
    # with the process, as a fork copies the set of claims
    claim = (os.getpid(), threading.get_ident(), lock_file.resolve())
    if claim in _CLAIMS:
        yield
        return
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock, holder_file = FileLock(lock_file), lock_file.with_suffix(HOLDER_SUFFIX)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise ValueError(
            f"{label} is in use by {_holder_in(holder_file)}; wait until it is done, stop it, or name another folder"
        ) from error
    except OSError as error:
        if error.errno not in _HAS_NO_LOCKS:
            raise
        logger.warning(
            "%s: its file system has no locks (%s); start no second process in this folder", lock_file, error.strerror
        )
    _CLAIMS.add(claim)
    try:
        with suppress(OSError):  # a full disk; the lock is held all the same
            write_anew(holder_file, f"{os.getpid()} {socket.gethostname()}\n")
        yield
    finally:
        _CLAIMS.discard(claim)
        # Before the lock is free: a process that waits with the removed file sees that, and makes another one.
        for path in (holder_file, lock_file):
            with suppress(OSError):
                path.unlink()
        lock.release()


def lock_in(folder: str | Path) -> Path:
    """The lock of a folder that lasts, such as a run's."""
    return Path(folder) / LOCK_SUFFIX


def lock_beside(folder: Path) -> Path:
    """The lock of a folder that is replaced as a whole, such as an export."""
    return folder.with_name(f".{folder.name}{LOCK_SUFFIX}")


def is_of_a_lock(name: str) -> bool:
    """Whether a name is that of a file which a killed process may leave of its lock."""
    return name.startswith(".") and name.endswith((LOCK_SUFFIX, HOLDER_SUFFIX))


def _holder_in(file: Path) -> str:
    with suppress(OSError, ValueError):  # it has not said its number yet
        pid, host = file.read_text(encoding="utf-8").split()
        return f"process {pid} on {host}"
    return "another process"
