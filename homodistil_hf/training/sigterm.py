"""SIGTERM: schedulers of rented machines send it some seconds before they kill a process.

The handler only takes a note; the trainer asks at the end of each step, agrees with the other ranks and saves first.
SIGINT is left to Python: `KeyboardInterrupt` passes at once, and the last checkpoint stays.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

logger = logging.getLogger(__name__)

EXIT_STATUS = 128 + signal.SIGTERM
"""What a process ends with after SIGTERM, by the convention of shells: 143."""


class StopRequest:
    """Takes note of SIGTERM while it is entered; afterwards the handler that was there before is back.

    Only the main thread of a process can take signals, and one that ignores SIGTERM goes on ignoring it: elsewhere
    nothing happens here.

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
        """End the process with status 143, as SIGTERM asks for; a handler of the user's own is called first."""
        if callable(self._earlier):
            self._earlier(int(signal.SIGTERM), None)
        raise SystemExit(EXIT_STATUS)

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        if not self.is_made:
            logger.warning("SIGTERM: this step is finished and a checkpoint saved before the process ends")
        self.is_made = True


def start_worker(prepare: Callable[[int], None] | None, worker: int) -> None:
    """First call in a worker of a data loader: a signal to a whole process group must not take the batches away.

    The worker gets a group of its own. It can't just ignore SIGTERM, by which its trainer ends it.
    """
    if os.name == "posix":
        os.setpgid(0, 0)
    if prepare is not None:
        prepare(worker)
