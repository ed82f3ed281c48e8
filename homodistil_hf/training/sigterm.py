"""SIGTERM: schedulers of rented machines send it some seconds before they kill a process.

In training the handler only sets a flag. At the end of each step `exact_trainer.py` reads it, agrees with the other
ranks, saves, and ends the process. Elsewhere in a command [`ending_cleanly`] ends it at once, with the same status.
In the training of a command of one process the first SIGINT (Ctrl-C) does the same, with the status of interrupted
commands. A second one, and any other SIGINT, raises `KeyboardInterrupt` at once, as Python does.
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
    """A context that notes SIGTERM in `is_made`, in [`ending_cleanly`] also SIGINT, and restores earlier handlers.

    It does nothing outside of the main thread, which alone receives signals, or for a signal that is ignored.

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
        self.name = signal.SIGTERM.name
        """Of the signal that came first; SIGTERM where another rank got it."""
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            # an ignored SIGTERM stays ignored; SIGINT is noted only in a command of ours
            if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
                self._earlier[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._take_note)
            if signal.getsignal(signal.SIGINT) is _interrupt:
                self._earlier[signal.SIGINT] = signal.signal(signal.SIGINT, self._take_note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, earlier in self._earlier.items():
            # None stands for a handler that Python didn't set and can't bring back
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)

    def leave(self) -> None:
        """End the process with status 143, after calling the earlier handler, if there is one: SIGINT's raises."""
        number = signal.Signals[self.name]
        if callable(earlier := self._earlier.get(number)):
            earlier(int(number), None)
        raise SystemExit(EXIT_STATUS)

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        if self.is_made and number == signal.SIGINT:  # a second Ctrl-C
            _interrupt(number, frame)
        if not self.is_made:
            self.name = signal.Signals(number).name
            logger.warning("%s: this step is finished and a checkpoint saved before the process ends", self.name)
        self.is_made = True


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Meanwhile SIGTERM raises `SystemExit` with status 143, so that folders that are half written are removed.

    SIGINT raises `KeyboardInterrupt`, as before, but a [`StopRequest`] may note it. Nothing changes outside of the
    main thread, for a signal that is handled or ignored already, and on one of several ranks: that may wait in a
    library for another one, where no handler of Python's is called, and torchrun repeats a SIGINT of the terminal.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
        return
    # signal, its handler where nobody has taken it, ours
    pairs = ((signal.SIGTERM, signal.SIG_DFL, _end), (signal.SIGINT, signal.default_int_handler, _interrupt))
    free = [(number, earlier, handler) for number, earlier, handler in pairs if signal.getsignal(number) == earlier]
    for number, _, handler in free:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier, _ in free:
            signal.signal(number, earlier)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # what is being tidied up isn't interrupted
    raise SystemExit(EXIT_STATUS)


class _Fork(threading.local):
    """A fork ends at SIGTERM: it has nothing to tidy up, and may wait where no handler of Python's is called.

    Until that holds a SIGTERM to it has to wait: Python drops what a fork is sent first.
    """

    earlier: set[int] | None = None
    """Signals that were held back before, while a thread forks."""

    def begin(self) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        if handler is _end or isinstance(getattr(handler, "__self__", None), StopRequest):
            self.earlier = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def end(self) -> None:
        if self.earlier is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.earlier)
            self.earlier = None

    def end_in_child(self) -> None:
        if self.earlier is not None:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.end()


if hasattr(os, "register_at_fork"):  # not on Windows
    _FORK = _Fork()
    os.register_at_fork(before=_FORK.begin, after_in_parent=_FORK.end, after_in_child=_FORK.end_in_child)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """As `signal.default_int_handler`, and by its name the handler of a command of ours."""
    raise KeyboardInterrupt


def start_worker(prepare: Callable[[int], None] | None, worker: int) -> None:
    """`worker_init_fn` of data loaders: a SIGTERM to the trainer's group, or to all its processes, spares the worker.

    The step that is finished needs it. Its trainer ends it by the same signal, when Python does not end by itself.

    Args:
        prepare: the user's `worker_init_fn`, called afterwards.
        worker: number of the worker.
    """
    if os.name == "posix":
        os.setpgid(0, 0)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_trainer, daemon=True).start()
    if prepare is not None:
        prepare(worker)


def _end_by_trainer() -> None:
    # the signal of anybody else is passed over
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
