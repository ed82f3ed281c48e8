"""Folders that appear, change and vanish as a whole, at whatever moment the process or the machine stops.

A folder is written under another name, synced to the disk and renamed; removing starts with a rename too. A failure to
write becomes one kind of error that names the place, whichever library raises it.
"""

import errno
import glob
import os
import re
import shutil
import socket
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from .inside import write_anew
from .locks import claimed, lock_beside

_REMOVED_SUFFIX = ".removed"
TRIAL_SUFFIX = ".trial-of-a-write"
"""Of an empty folder that [`check_writable`] makes and removes at once."""
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_ERRNO = re.compile(r"os error (\d+)")

# Rust's libraries end their messages with an error number. torch.save names a place in its own code or streams, or
# (2.6) a file that it can't open.
_FAILED_TO_WRITE = re.compile(rf"{_ERRNO.pattern}|inline_container\.cc|iostream error|^File .* cannot be opened\.$")
_ARCHIVE_SUFFIXES = (".pt", ".pth")
_WEIGHTS = (*_ARCHIVE_SUFFIXES, ".safetensors", ".bin", ".onnx", ".gguf")
_LITTLE_SPACE_BYTES = 1 << 20


@contextmanager
def written_whole(target: Path, what_now: Callable[[], str]) -> Iterator[Path]:
    """An empty folder that takes the target's place when the block ends without an error.

    A folder that had the name before makes room. One process at a time has the target, from the block's start to its
    end. Whatever happens inside, half of a folder is never seen.

    Args:
        target: a folder that exists or will be made, with its parents.
        what_now: describes, after a failure to write, what is there and what to do.

    Raises:
        ValueError: another process is writing the target.
        OSError: it can't be written; the message names the file and ends with `what_now`.
    """
    prefix = f".{target.name}.staging"
    try:
        with claimed(lock_beside(target), f"folder={str(target)!r}"):
            for left in target.parent.glob(f"{glob.escape(prefix)}*"):
                remove_folder(left)  # by a killed process
            recover(target)
            with TemporaryDirectory(prefix=prefix, dir=target.parent, ignore_cleanup_errors=True) as staging:
                aside = Path(staging, target.name)
                aside.mkdir()
                with naming_the_file(aside):
                    yield aside
                publish(aside, target)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, f"{error.strerror}; {what_now()}", error.filename) from error


def publish(staged: Path, final: Path) -> None:
    """Rename a complete folder, on the same file system, to its final name; an older one makes room first.

    A process that stops between the two renames leaves the older folder as `outdated_name(final)`; see [`recover`].
    """
    # users who may read the folder may read the weights: safetensors 0.8 writes files for their owner alone
    mode = staged.stat().st_mode & 0o666
    for path in staged.rglob("*.safetensors"):
        with suppress(OSError):  # some network file systems have no modes
            path.chmod(mode)
    # all of it is on the disk before a rename can get there
    for path in (*staged.rglob("*"), staged):
        _sync(path)
    if final.exists():
        # what an earlier stop has left under that name isn't needed: the final folder is there
        outdated = outdated_name(final)
        remove_folder(outdated)
        os.rename(final, outdated)
        try:
            os.rename(staged, final)
        except OSError:
            # back, or there would be no folder at all
            os.rename(outdated, final)
            raise
        remove_folder(outdated)
    else:
        os.rename(staged, final)
    # the renames themselves are written into the parent
    _sync(final.parent)


def recover(final: Path) -> None:
    """Bring back the older folder if a process stopped between the two renames of [`publish`]."""
    if not final.exists() and outdated_name(final).is_dir():
        os.rename(outdated_name(final), final)


def outdated_name(final: Path) -> Path:
    """Return the name, beside a folder, that it has while another one takes its place."""
    return final.with_name(f".{final.name}.outdated")


def remove_folder(folder: Path) -> None:
    """Remove a folder, or a link to one, if it exists, so that half of it is never seen under its name."""
    removed = folder.with_name(f".{folder.name.removeprefix('.')}{_REMOVED_SUFFIX}")
    # first finish a removal that was interrupted: its rest stands where this one goes
    _remove_tree(removed)
    if os.path.lexists(folder):
        os.rename(folder, removed)
        _remove_tree(removed)


def remove_leftovers(parent: Path) -> None:
    """Finish the removals in `parent` that were interrupted inside [`remove_folder`]."""
    for path in parent.glob(f".*{_REMOVED_SUFFIX}"):
        _remove_tree(path)


def _remove_tree(path: Path) -> None:
    """Remove what is there under a name, if anything: of a link to a folder the link alone."""
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def is_path(name: str) -> bool:
    """Whether the name of something that doesn't exist was meant as a path, not as a name on the Hub."""
    path = Path(os.path.expanduser(name))  # pathlib's raises where there is no such user
    if path.is_absolute() or name.startswith((".", "~")):
        return True
    # `runs/my-student` could be on the Hub, but not where there is a folder runs/.
    return len(path.parts) > 2 or (len(path.parts) == 2 and path.parent.is_dir())


def refuse_missing(name: str, label: str) -> None:
    """Refuse the name of a model that is empty, or a path of nothing or weights; a name on the Hub is let pass.

    Raises:
        ValueError: the name is empty, or that of a file of weights.
        FileNotFoundError: it was meant as a path.
    """
    if not name.strip():
        raise ValueError(f"{label} is empty; name a folder or a repository on the Hub")
    if is_path(name) and not os.path.exists(name):
        raise FileNotFoundError(
            f"{label} does not exist; expected a folder, or a name on the Hub such as google-bert/bert-base-uncased"
        )
    if Path(name).suffix in _WEIGHTS and os.path.isfile(name):
        raise ValueError(f"{label} is a file of weights; name its folder, {str(Path(name).parent)!r}")


def check_writable(place: str | Path, label: str, *, remedy: str = "name a place where you may write") -> None:
    """Refuse, by a ValueError, a file or folder that can't be written, by a trial that leaves nothing behind.

    `label`, argument and value, begins the message, `remedy` ends it.
    """
    whole = Path(place).absolute()
    try:
        nearest = next(folder for folder in (whole, *whole.parents) if os.path.lexists(folder))
        with TemporaryDirectory(prefix=".", suffix=TRIAL_SUFFIX, dir=nearest):
            pass
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{label} can't be written ({reason}); {remedy}") from error


def check_writable_file(file: str | Path, label: str) -> None:
    """Refuse, by a ValueError, a file that can't be written, before the work whose results it is to hold."""
    if not str(file).strip() or os.path.isdir(file):
        raise ValueError(f"{label} is no name of a file; name one, in a folder that exists or not")
    check_replaceable(file, label)


def check_replaceable(place: str | Path, label: str) -> None:
    """Refuse, as [`check_writable`], a file or folder that can't be written beside its place and renamed."""
    check_writable(Path(place).parent if os.path.lexists(place) else place, label)


def write_text(path: Path, text: str) -> None:
    """Write a file in an existing folder: afterwards it is whole, or as it was before."""
    aside = aside_name(path)
    try:
        with naming_the_file(path.parent, file=path.name):
            write_anew(aside, text)
            _sync(aside)
            os.replace(aside, path)
    finally:
        with suppress(OSError):  # it has become the file
            aside.unlink()


def aside_name(path: Path) -> Path:
    """Return the name, beside a file, under which this process writes it; no other process has it."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.aside")


@contextmanager
def naming_the_file(folder: Path, *, file: str | None = None) -> Iterator[None]:
    """Turn any library's failure to write below a folder into one `OSError` with `errno`, `strerror` and `filename`.

    Python often reports the error without the file; safetensors, tokenizers and torch raise errors of their own.

    `file` is the one that is written; by default the error names the folder.
    """
    place = folder / file if file else folder
    try:
        yield
    except Exception as error:  # tokenizers raise nothing more special
        if isinstance(error, OSError):
            # that of a copy has the file that is read first
            if error.errno is None or (error.filename is not None and error.filename2 is None):
                raise
            raise write_error(error.errno, error.filename2 or place) from error
        if not _FAILED_TO_WRITE.search(str(error)):
            raise
        match = _ERRNO.search(str(error))
        raise write_error(int(match[1]) if match else _unspoken_number(folder), place) from error


def write_error(number: int, path: str | Path, remedy: str = "") -> OSError:
    """Return the error of a file or folder that can't be written; of a full disk it has the bytes that are free."""
    said = os.strerror(number)
    if number == errno.ENOSPC:
        said += f", {free_bytes(path):,} bytes are free there"
    return OSError(number, f"{said}{remedy}", str(path))


def free_bytes(path: str | Path) -> int:
    """Return what is free on the file system of a path, which needn't be there."""
    whole = Path(path).absolute()
    return shutil.disk_usage(next(folder for folder in (whole, *whole.parents) if folder.is_dir())).free


def check_archives(folder: Path) -> None:
    """Raise `OSError` if a file that torch saved below a folder is cut off.

    Where a file can't grow, at a quota for instance, torch 2.6 drops the last bytes without an error.
    """
    for path in folder.rglob("*"):
        if path.suffix in _ARCHIVE_SUFFIXES and not zipfile.is_zipfile(path):
            raise write_error(_unspoken_number(folder), path)


def _unspoken_number(folder: Path) -> int:
    """Return the error number that torch leaves out, judged by the space that is left."""
    return errno.ENOSPC if shutil.disk_usage(folder).free < _LITTLE_SPACE_BYTES else errno.EIO


def _sync(path: Path) -> None:
    if os.name == "nt":
        return  # Windows opens no folder, and syncs no file that is open for reading
    # Some network file systems sync files but no folders.
    with suppress(OSError) if path.is_dir() else nullcontext():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
