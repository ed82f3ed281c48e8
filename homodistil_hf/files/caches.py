"""The package's own cache of converted and tokenized texts, and how to clear it; the Hub's cache is not touched."""

import errno
import os
import shutil
import sys
from pathlib import Path

from .folders import free_bytes, write_error

_DATASETS = "datasets"


def cache_folder() -> Path:
    """Return the folder of the cache, `homodistil_hf` below `$HOMODISTIL_CACHE`, `$XDG_CACHE_HOME` or `~/.cache`.

    It has a name of its own everywhere, so that clearing it never touches its neighbours.
    """
    parent = os.environ.get("HOMODISTIL_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(parent)).absolute() / "homodistil_hf"


def keep_datasets_here() -> None:
    """Let `datasets` convert and tokenize into our cache, unless `HF_DATASETS_CACHE` names a folder."""
    if "HF_DATASETS_CACHE" not in os.environ:
        import datasets  # half a second, which most commands needn't wait for

        datasets.config.HF_DATASETS_CACHE = cache_folder() / _DATASETS


def full_disk(error: BaseException) -> OSError | None:
    """Name the place for an error of a full disk that names no file; None for all others.

    Libraries write into a few folders on their own; the one with the least space is meant.
    """
    is_full = getattr(error, "errno", None) == errno.ENOSPC or "Not enough disk space" in str(error)
    if not is_full or getattr(error, "filename", None) is not None:
        return None
    places = {
        name: str(getattr(sys.modules[module], name))
        for module, name in (("datasets.config", "HF_DATASETS_CACHE"), ("huggingface_hub.constants", "HF_HUB_CACHE"))
        if module in sys.modules
    } | {"TMPDIR": os.environ.get("TMPDIR", "/tmp")}
    name = min(places, key=lambda one: free_bytes(places[one]))
    return write_error(errno.ENOSPC, places[name], f"; make room there, or name another folder with {name}")


def cache_size() -> int:
    """Return the bytes on disk of the cache."""
    return sum(path.stat().st_size for path in (cache_folder() / _DATASETS).rglob("*") if path.is_file())


def clear_cache() -> int:
    """Remove the cache of this package, and nothing else in its folder; return the number of bytes freed."""
    before_bytes = cache_size()
    folder = cache_folder() / _DATASETS
    shutil.rmtree(folder.resolve(), ignore_errors=True)
    if folder.is_symlink():  # to another disk: the link stays, and leads to an empty folder
        folder.resolve().mkdir(parents=True, exist_ok=True)
    return before_bytes - cache_size()
