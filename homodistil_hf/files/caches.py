"""The package's own caches, which it can fill again, and how to clear them; the Hub's cache is not touched.

`datasets` holds texts that `homodistil distill` has converted and tokenized; `latency` holds tables measured on this
machine.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from .checkpoints import manifest_problem, write_manifest
from .folders import check_writable, remove_folder

KINDS = ("datasets", "latency")
_LOCKS = "locks"
_OLD_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """Return the folder of all caches, `homodistil_hf` below `$HOMODISTIL_CACHE`, `$XDG_CACHE_HOME` or `~/.cache`.

    It has a name of its own everywhere, so that clearing it never touches its neighbours.
    """
    parent = os.environ.get("HOMODISTIL_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(parent)).absolute() / "homodistil_hf"


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return a cached folder, which callers must not write to; build it first if it is absent or damaged.

    It is built under another name, gets a manifest of digests and is renamed: an interrupted build is never taken for
    a whole one. Of several processes one builds, and the others wait; what a killed one has left is removed.

    `key` is a digest of everything that the content depends on; `build` fills an empty folder.
    """
    folder = cache_folder() / kind / key
    # most calls need no lock: an entry with its final name never changes
    if _is_whole(folder):
        return folder
    check_cache(folder.parent)
    with FileLock(cache_folder() / _LOCKS / f"{kind}-{key}.lock"):
        if _is_whole(folder):  # another process was faster
            return folder
        remove_folder(folder)
        # what killed processes have left: of this entry, whose lock we hold, and of others a day ago
        for path in folder.parent.glob(".*"):
            with suppress(FileNotFoundError):
                if path.name.startswith(f".{key}.") or time.time() - path.stat().st_mtime > _OLD_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
        try:
            build(aside)
            write_manifest(aside)
            os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        return manifest_problem(folder) is None
    except OSError:  # another process removes it meanwhile
        return False


def check_cache(folder: Path) -> None:
    """Make a folder of a cache where it is absent; refuse one that can't be written, by an OSError."""
    remedy = "name another folder with HOMODISTIL_CACHE, or with HF_DATASETS_CACHE for texts"
    try:
        check_writable(folder, f"cache={str(folder)!r}", remedy=remedy)
    except ValueError as error:
        raise OSError(str(error)) from error
    folder.mkdir(parents=True, exist_ok=True)


def keep_datasets_here() -> None:
    """Let `datasets` convert and tokenize into our cache, unless `HF_DATASETS_CACHE` names a folder."""
    if "HF_DATASETS_CACHE" not in os.environ:
        import datasets  # half a second, which most commands needn't wait for

        datasets.config.HF_DATASETS_CACHE = cache_folder() / "datasets"


def cache_sizes() -> dict[str, int]:
    """Return the bytes on disk of each kind of cache."""
    paths = {kind: (cache_folder() / kind).rglob("*") for kind in KINDS}
    return {kind: sum(path.stat().st_size for path in of_kind if path.is_file()) for kind, of_kind in paths.items()}


def clear_caches() -> int:
    """Remove all caches of this package, and nothing else in their folder; return the number of bytes freed."""
    freed_bytes = sum(cache_sizes().values())
    for kind in (*KINDS, _LOCKS):
        shutil.rmtree(cache_folder() / kind, ignore_errors=True)
    return freed_bytes
