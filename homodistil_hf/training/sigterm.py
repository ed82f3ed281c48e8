"""SIGTERM: schedulers of rented machines send it some seconds before they kill a process.

In training the handler only sets a flag. At the end of each step `exact_trainer.py` reads it, agrees with the other
ranks, saves, and ends the process. Elsewhere in a command [`ending_cleanly`] ends it at once, with the same status.
SIGINT raises `KeyboardInterrupt` at once, as Python does, and the last checkpoint stays.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

EXIT_STATUS = 128 + signal.SIGTERM
"""Exit status of a process after SIGTERM, by the convention of shells: 143."""


class StopRequest:
    """A context that notes SIGTERM in `is_made`, and restores the earlier handler when it ends.

    It does nothing outside of the main thread, which alone receives signals, or in a process that ignores SIGTERM.

    Example:
    ```python
    >>> with StopRequest() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.is_made
    True

    ```
    """

    def __init__(self) -> None:
        self.is_made = False
        self._is_installed = False
        self._earlier: Any = None

    def __enter__(self) -> "StopRequest":
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
            self._earlier = signal.signal(signal.SIGTERM, self._take_note)
            self._is_installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_installed:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._earlier is None else self._earlier)
            self._is_installed = False

    def leave(self) -> None:
        """End the process with status 143, after calling the user's own handler, if there is one."""
        if callable(self._earlier):
            self._earlier(int(signal.SIGTERM), None)
        raise SystemExit(EXIT_STATUS)

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        if not self.is_made:
            logger.warning("SIGTERM: this step is finished and a checkpoint saved before the process ends")
        self.is_made = True


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Meanwhile SIGTERM raises `SystemExit` with status 143, so that folders that are half written are removed.

    It changes nothing outside of the main thread, where SIGTERM is handled or ignored already, and on one of several
    ranks: that may wait in a library for another one, where no handler of Python's is called.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    is_free = in_main_thread and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if not is_free or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
        return
    process = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a fork, which has nothing of ours to tidy up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        signal.signal(number, signal.SIG_IGN)  # what is being tidied up isn't interrupted
        raise SystemExit(EXIT_STATUS)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def start_worker(prepare: Callable[[int], None] | None, worker: int) -> None:
    """`worker_init_fn` of data loaders: a process group of its own, so a SIGTERM to the trainer's group spares it.

    A worker can't just ignore SIGTERM, as its trainer ends it with that signal.

    Args:
        prepare: the user's `worker_init_fn`, called afterwards.
        worker: number of the worker.
    """
    if os.name == "posix":
        os.setpgid(0, 0)
    if prepare is not None:
        prepare(worker)
