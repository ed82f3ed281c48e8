"""Folders that are complete or absent: staging, manifest, and finding the last good checkpoint.

A manifest holds the SHA-256 of every file of a checkpoint; it is written last and checked first, because safetensors
has no checksum and a pickle must not be opened before it is known to be the one that was written. What goes into a
checkpoint is decided in `resumable.py`.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

MANIFEST_NAME = "manifest.json"
STAGING_NAME = ".staging"
_PICKLE_SUFFIXES = (".bin", ".pkl", ".pt", ".pth")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def write_manifest(folder: str | Path) -> None:
    """Write the digest of every file below a folder.

    Args:
        folder: a finished checkpoint.
    """
    folder = Path(folder)
    files = {name: file_digest(folder / name) for name in _file_names(folder)}
    text = json.dumps({"format": 1, "sha256": files}, indent=2, sort_keys=True)
    _write_durably(folder / MANIFEST_NAME, text)


def check_manifest(folder: str | Path) -> None:
    """Compare a checkpoint with its manifest.

    Args:
        folder: `checkpoint-N`.

    Raises:
        ValueError: no manifest, a missing file, a file that differs, or a pickle that is not listed; the message names
            the file and the last good checkpoint beside it.
    """
    folder = Path(folder)
    if problem := manifest_problem(folder):
        good = last_checkpoint(folder.parent, skip=folder)
        remedy = f"resume from the last good checkpoint, {good}" if good else "there is no other checkpoint beside it"
        raise ValueError(f"resume_from_checkpoint={str(folder)!r} can't be used: {problem}; {remedy}")


def manifest_problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint.

    Args:
        folder: `checkpoint-N`.

    Returns:
        `str`, or None when all files are as they were written.
    """
    if not folder.is_dir():
        return "there is no such folder"
    try:
        digests = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))["sha256"]
        expected = {str(name): str(digest) for name, digest in digests.items()}
    except FileNotFoundError:
        return f"{MANIFEST_NAME} is missing, so it was not written to the end or not by this package"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST_NAME} is damaged"
    present = set(_file_names(folder))
    for name, digest in expected.items():
        if name not in present:
            return f"{name} is missing"
        if file_digest(folder / name) != digest:
            return f"{name} is damaged (its SHA-256 differs from the manifest's)"
    pickles = sorted(name for name in present - expected.keys() if name.endswith(_PICKLE_SUFFIXES))
    return f"{pickles[0]} is a pickle that {MANIFEST_NAME} doesn't list" if pickles else None


def last_checkpoint(output_dir: str | Path, *, skip: Path | None = None) -> Path | None:
    """The newest checkpoint that is complete.

    Args:
        output_dir: folder of a run.
        skip: a checkpoint known to be bad.

    Returns:
        `Path` of `checkpoint-N`, or None.
    """
    for checkpoint in sorted_checkpoints(output_dir):
        if checkpoint != skip and manifest_problem(checkpoint) is None:
            return checkpoint
    return None


def sorted_checkpoints(output_dir: str | Path) -> list[Path]:
    """All checkpoint folders of a run, complete or not, newest first.

    Args:
        output_dir: folder of a run; may be absent.

    Returns:
        `list[Path]`.
    """
    output_dir = Path(output_dir)
    if not output_dir.is_dir():
        return []
    steps = {path: _CHECKPOINT.fullmatch(path.name) for path in output_dir.iterdir() if path.is_dir()}
    found = [(int(match.group(1)), path) for path, match in steps.items() if match]
    return [path for _, path in sorted(found, reverse=True)]


def publish(staged: Path, final: Path) -> None:
    """Rename a staged folder to its final name; an older folder of that name makes room first.

    Args:
        staged: complete folder on the same file system.
        final: where it goes.
    """
    if not final.exists():
        os.rename(staged, final)
        return
    outdated = final.with_name(f".{final.name}.outdated")
    shutil.rmtree(outdated, ignore_errors=True)
    os.rename(final, outdated)
    try:
        os.rename(staged, final)
    except OSError:
        os.rename(outdated, final)
        raise
    shutil.rmtree(outdated)


def file_digest(path: Path) -> str:
    """SHA-256 of a file.

    Args:
        path: any file.

    Returns:
        `str`: 64 hexadecimal digits.
    """
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _file_names(folder: Path) -> list[str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.relative_to(folder).as_posix() for path in files if path.name != MANIFEST_NAME]


def _write_durably(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
