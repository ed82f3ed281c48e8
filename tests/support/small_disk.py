"""Real file systems that are full or can't be written, where this machine lets a test mount one."""

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE_BYTES = 4 << 20


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 4 MiB; skips where mounting is not permitted."""
    folder.mkdir()
    if not _run("mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)):
        pytest.skip("this user may not mount a file system of its own")
    try:
        yield folder
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def limited_file_size(size_bytes: int) -> Iterator[None]:
    """Files can't grow beyond a size, as where a user's quota is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """Nothing can be written to a disk inside."""
    assert _run("mount", "-o", "remount,ro", str(disk))
    try:
        yield
    finally:
        assert _run("mount", "-o", "remount,rw", str(disk))


@contextmanager
def room_for(disk: Path, size_bytes: int) -> Iterator[None]:
    """A disk with so many bytes left, rounded to whole pages."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"\0" * max(0, shutil.disk_usage(disk).free - size_bytes))
    try:
        yield
    finally:
        ballast.unlink()


def _run(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False
