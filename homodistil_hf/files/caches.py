"""The package's own caches, which it can fill again, and how to clear them; the Hub's cache is not touched.

`datasets` holds texts that `homodistil distill` has converted and tokenized; `latency` holds tables measured on this
machine; `code` holds code compiled for this machine.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from .checkpoints import manifest_problem, write_manifest

KINDS = ("datasets", "latency", "code")


def cache_folder() -> Path:
    """Return the folder of all caches, `homodistil_hf` below `$HOMODISTIL_CACHE`, `$XDG_CACHE_HOME` or `~/.cache`.

    It has a name of its own everywhere, so that clearing it never touches its neighbours.
    """
    parent = os.environ.get("HOMODISTIL_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser().absolute() / "homodistil_hf"


def cached(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return a cached folder, which callers must not write to; build it first if it is absent or damaged.

    It is built under another name, gets a manifest of digests and is renamed: an interrupted build is never taken for
    a whole one.

    Args:
        kind: one of `KINDS`.
        key: digest of everything that the content depends on.
        build: fills an empty folder.
    """
    folder = cache_folder() / kind / key
    if folder.is_dir():
        if manifest_problem(folder) is None:
            return folder
        shutil.rmtree(folder)
    check_writable(folder.parent)
    aside = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=folder.parent))
    try:
        build(aside)
        write_manifest(aside)
        if not folder.is_dir():  # another process may have been faster
            os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def check_writable(folder: Path) -> None:
    """Refuse, by an OSError, a folder of a cache that can't be made or written; it is made where it is absent."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"cache={str(folder)!r} can't be written ({error.strerror}); name another folder with HOMODISTIL_CACHE, "
            "or with HF_DATASETS_CACHE for texts"
        ) from error


def keep_datasets_here() -> None:
    """Let `datasets` convert and tokenize into our cache, unless `HF_DATASETS_CACHE` names a folder."""
    if "HF_DATASETS_CACHE" not in os.environ:
        import datasets  # half a second, which most commands needn't wait for

        datasets.config.HF_DATASETS_CACHE = cache_folder() / "datasets"


def cache_sizes() -> dict[str, int]:
    """Return the bytes on disk of each kind of cache."""
    files = {kind: (cache_folder() / kind).rglob("*") for kind in KINDS}
    return {kind: sum(path.stat().st_size for path in found if path.is_file()) for kind, found in files.items()}


def clear_caches() -> int:
    """Remove all caches of this package, and nothing else in their folder; return the number of bytes freed."""
    freed_bytes = sum(cache_sizes().values())
    for kind in KINDS:
        shutil.rmtree(cache_folder() / kind, ignore_errors=True)
    return freed_bytes
