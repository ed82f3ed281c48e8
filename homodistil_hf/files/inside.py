"""Names and files that stay inside a folder: what a stranger's records list, and what links lead to.

Whatever reads a list of files from a record (push, deploy, verify, manifests, indices of weights) asks here first.
"""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

_SNAPSHOTS, _BLOBS = "snapshots", "blobs"


def stays_inside(name: str) -> bool:
    r"""Whether a relative path of unknown origin stays below its folder on any system.

    Example:
    ```python
    >>> [stays_inside(name) for name in ("a.bin", "sub/a.bin", "../a.bin", "/a.bin", "C:a.bin", "sub\\..\\a.bin")]
    [True, True, False, False, False, False]

    ```
    """
    # both readings: backslashes and drives mean nothing to POSIX, and lead out on Windows
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    is_relative = not posix.is_absolute() and not windows.anchor and not windows.drive
    return is_relative and bool(posix.parts) and ".." not in windows.parts and "\0" not in name


def is_inside(folder: Path, name: str) -> bool:
    """Whether a name of unknown origin stays inside a folder, whatever links there are on the way.

    A snapshot of the Hub's cache consists of links to the `blobs/` of its repository, which count as inside.
    """
    return stays_inside(name) and leads_inside(folder, folder / name)


def leads_inside(folder: Path, path: Path) -> bool:
    """Whether a path, which may be one of the working folder, leads to a place inside a folder as [`is_inside`]."""
    root, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    blobs = [at.parent.parent / _BLOBS for at in (root, *root.parents) if at.parent.name == _SNAPSHOTS]
    return any(real.is_relative_to(place) for place in (root, *blobs))


def files_inside(folder: Path) -> dict[str, Path]:
    """Files below a folder: relative name → path, sorted, without those that [`links_out`] names."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    return {name: folder / name for name in names if is_inside(folder, name)}


def links_out(folder: Path) -> list[str]:
    """Names of links below a folder that lead out of it or to nothing, sorted."""
    links = (path for path in sorted(folder.rglob("*")) if path.is_symlink())
    names = (path.relative_to(folder).as_posix() for path in links)
    return [name for name in names if not is_inside(folder, name) or not (folder / name).exists()]


def refuse_links_out(folder: Path) -> None:
    """Refuse a folder that is copied as a whole and has links that lead out of it or to nothing.

    Raises:
        ValueError: it has one.
    """
    if names := links_out(folder):
        raise ValueError(
            f"folder={str(folder)!r} has the link {names[0]!r} to {os.path.realpath(folder / names[0])!r}, which is "
            "no file of the folder; put the file itself there, or remove the link"
        )


def refuse_link_out(folder: Path, name: str) -> None:
    """Refuse, by a ValueError, a folder in which a folder of this name is a link to another place."""
    if (folder / name).is_symlink() and not is_inside(folder, name):
        raise ValueError(
            f"folder={str(folder)!r} has the link {name!r} to {os.path.realpath(folder / name)!r}, which is outside "
            "of it; name that folder, or put it here"
        )


def links_to_folders(place: str, names: Sequence[str]) -> set[str]:
    """`ignore` of `shutil.copytree`: links that lead to no file, as one to a folder above would be copied for ever."""
    paths = {name: os.path.join(place, name) for name in names}
    return {name for name, path in paths.items() if os.path.islink(path) and not os.path.isfile(path)}


def write_anew(path: Path, text: str) -> None:
    """Write a file whose name may be a link of a stranger's: the link goes, and what it leads to stays."""
    path.unlink(missing_ok=True)
    with path.open("x", encoding="utf-8") as file:  # fails on a link that came meanwhile
        file.write(text)
