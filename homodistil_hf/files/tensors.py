"""Weights in safetensors files, refused if damaged, misplaced or far too few; what they mean is said elsewhere."""

import math
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from .messages import shown
from .strict_json import read_json_object

WEIGHTS_FILE = "model.safetensors"
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SPARE_PARAMETERS = 1 << 24
_SHOWN_CHARS = 200  # of safetensors' message, which may quote a header


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file.

    Args:
        path: the file.

    Returns:
        `dict[str, torch.Tensor]`: name → tensor.

    Raises:
        ValueError: missing, cut off, or a header that does not describe the file.
        OSError: it can't be read.
    """
    count_weights(path, f"file={str(path)!r}")
    return load_file(path)


def count_weights(path: Path, label: str) -> int:
    """Count the numbers that a safetensors file holds, from its header; safetensors checks that against the file.

    Args:
        path: the file.
        label: first words of every message.

    Returns:
        `int`.

    Raises:
        ValueError: cut off, of another framework, or a header that does not describe this file.
        OSError: the file can't be read.
    """
    if not path.is_file():
        raise ValueError(f"{label} is no file")
    try:
        with safe_open(path, "pt") as file:
            written_by = (file.metadata() or {}).get("format", "pt")
            num_weights = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{label} is cut off or no safetensors ({str(error)[:_SHOWN_CHARS]})") from error
    if written_by != "pt":
        raise ValueError(f"{label} has the format {shown(written_by)}; expected pt: save it from PyTorch")
    return num_weights


def check_weights(folder: str | Path, num_parameters: int, label: str) -> None:
    """Look at the weights of a model's folder before they are loaded.

    Args:
        folder: local folder of a model; without safetensors or an index, nothing is checked.
        num_parameters: of the model that its configuration describes.
        label: first words of every message.

    Raises:
        ValueError: an index that names files outside the folder, a damaged file, or far fewer weights than the
            configuration describes, for which memory would be taken all the same.
        OSError: a file can't be read.
    """
    folder = Path(folder)
    names = [WEIGHTS_FILE] if (folder / WEIGHTS_FILE).is_file() else _indexed_files(folder, label)
    files = [folder / name for name in names if name.endswith(".safetensors")]
    if not files:
        return
    try:
        held = sum(count_weights(file, file.name) for file in files)
    except ValueError as error:
        raise ValueError(f"{label}: its weights are unreadable ({error}); copy or download them again") from error
    if num_parameters > 2 * held + _SPARE_PARAMETERS:
        raise ValueError(
            f"{label} holds {held:,} weights, its config.json describes {num_parameters:,}; mend config.json, or copy "
            "or download the weights again"
        )


def stays_inside(name: str) -> bool:
    r"""Whether a relative path names something below the folder that it is joined to, on any system.

    Args:
        name: from a file that somebody else may have written.

    Returns:
        `bool`.

    Example:
    ```python
    >>> [stays_inside(name) for name in ("a.bin", "sub/a.bin", "../a.bin", "/a.bin", "C:a.bin", "sub\\..\\a.bin")]
    [True, True, False, False, False, False]

    ```
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    is_relative = not posix.is_absolute() and not windows.anchor and not windows.drive
    return is_relative and bool(posix.parts) and ".." not in windows.parts and "\0" not in name


def _indexed_files(folder: Path, label: str) -> list[str]:
    for index in _INDEX_FILES:
        if (folder / index).is_file():
            weight_map = read_json_object(folder / index, f"{label}: {index}").get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
                raise ValueError(f"{label}: {index} has weight_map={shown(weight_map)}; expected tensor → file name")
            names = sorted(set(weight_map.values()))
            if outside := [name for name in names if not stays_inside(name)]:
                raise ValueError(
                    f"{label}: {index} names {shown(outside[0])}, which is outside the folder; expected files in it"
                )
            return names
    return []
