"""Processes that know no other Hub than `hub_server.py`, and what tests let them do.

huggingface_hub reads `HF_ENDPOINT` when it is imported, so its client runs in a process of its own. That process is
started once and keeps what it has imported; each call in it comes back with everything that was written meanwhile.
"""

import gc
import logging
import os
import pickle
import shutil
import sys
import tempfile
import traceback
import urllib.request
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

WAITS_S: list[float] = []
"""How long the client would have waited between attempts, in the process that runs it."""


@dataclass(frozen=True)
class Outcome:
    """What a call in the other process came to.

    Args:
        value: what it returned; its text, where that does not survive pickling (the commits of huggingface_hub 1.5).
        error: name of the exception's class, or None.
        message: of the exception.
        output: all log lines down to DEBUG, standard output and error.
        trace: the traceback as Python prints it.
    """

    value: Any = None
    error: str | None = None
    message: str = ""
    output: str = ""
    trace: str = ""


class Client:
    """A process with huggingface_hub's client; a context manager.

    Args:
        url: of the Hub.
        home: folder for its caches.
        with_package: whether `homodistil_hf` can be imported there.
    """

    def __init__(self, url: str, home: Path, *, with_package: bool = True):
        settings = {
            "HF_ENDPOINT": url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.home = home
        self._pool = ProcessPoolExecutor(
            1, mp_context=get_context("spawn"), initializer=_prepare, initargs=(with_package,)
        )
        kept = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_CACHE")}
        with mock.patch.dict(os.environ, {**kept, **settings}, clear=True):
            self._pool.submit(int).result()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def forget(self) -> None:
        """Remove what it has downloaded."""
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, action: Callable[..., Any], *arguments: Any, **settings: Any) -> Outcome:
        """Call a function of a module that can be imported there, with plain values."""
        return self._pool.submit(_captured, action, arguments, settings).result()


def _prepare(with_package: bool) -> None:
    if not with_package:
        sys.modules["homodistil_hf"] = None  # type: ignore[assignment]
        # What this process loaded from elsewhere is on the path that a new process takes over, before its own cache.
        sys.path[:] = [entry for entry in sys.path if not (Path(entry) / "transformers_modules").is_dir()]
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    clock = SimpleNamespace(sleep=WAITS_S.append, time=_http.time.time, monotonic=_http.time.monotonic)
    _http.time = file_download.time = clock
    constants.DOWNLOAD_CHUNK_SIZE = 1000  # so that small files come in several pieces
    if with_package:
        from homodistil_hf.files import hub_errors

        hub_errors.time = clock


def _captured(action: Callable[..., Any], arguments: tuple[Any, ...], settings: dict[str, Any]) -> Outcome:
    WAITS_S.clear()
    gc.collect()
    gc.freeze()  # a training collects garbage, and would look through all that is imported
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        earlier = [os.dup(stream) for stream in (1, 2)]
        handler = logging.StreamHandler(file)
        root = logging.getLogger()
        loggers = [root, *(logging.getLogger(name) for name in ("huggingface_hub", "transformers", "homodistil_hf"))]
        levels = [logger.level for logger in loggers]
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
            logger.addHandler(handler)
        try:
            made = _outcome(action, arguments, settings)
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.removeHandler(handler)
                logger.setLevel(level)
            sys.stdout.flush()
            sys.stderr.flush()
            file.flush()
            for stream, copy in zip((1, 2), earlier, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
        file.seek(0)
        return Outcome(**made, output=file.read())


def _outcome(action: Callable[..., Any], arguments: tuple[Any, ...], settings: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": _portable(action(*arguments, **settings))}
    except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
        return {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}


def _portable(value: Any) -> Any:
    # What can't be read again at the other end would break the pool, and all later calls with it.
    try:
        pickle.loads(pickle.dumps(value))
    except TypeError:
        return str(value)
    return value


def release(url: str, signal: str) -> None:
    """Let requests go that the Hub at `url` holds until a signal."""
    urllib.request.urlopen(urllib.request.Request(f"{url}/_signal/{signal}", method="POST"), timeout=30).close()


def as_user(token: str, action: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """Call a function while a token is that of the logged-in user."""
    with mock.patch.dict(os.environ, {"HF_TOKEN": token}):
        return action(*arguments, **settings)


def logits_from(name: str, auto_class: str, **settings: Any) -> dict[str, Any]:
    """Load what was pushed as anybody would, and run it on the probe of its facts: its `class`, and the `logits`.

    `token` counts for everything that is read meanwhile: transformers 5.14 doesn't read the configuration with it.
    """
    import json

    import torch
    import transformers
    from huggingface_hub import hf_hub_download

    with mock.patch.dict(os.environ, {"HF_TOKEN": settings["token"]} if "token" in settings else {}):
        model = getattr(transformers, auto_class).from_pretrained(name, **settings).eval()
        facts = hf_hub_download(name, "facts.json", revision=settings.get("revision"))
    probe = json.loads(Path(facts).read_text())["probe"]
    inputs = {key: torch.tensor(probe[key]) for key in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        logits = model(**inputs).logits.flatten()[probe["positions"]]
    return {"class": f"{type(model).__module__}.{type(model).__name__}", "logits": logits.tolist()}
