"""Are these the weights of such a model, and do they lie where they should? Headers and indexes, before any is loaded.

A safetensors header may claim anything, an index may name files anywhere. Both are checked here against the files
themselves and against what the configuration needs; loading is left to transformers and safetensors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors.torch import load_file

from .messages import shown
from .strict_json import parse_json, read_json_object


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file whose header has been checked.

    Args:
        path: the file.

    Returns:
        `dict[str, torch.Tensor]`: name → tensor.

    Raises:
        ValueError: missing, cut off, or a header that does not describe the file.
        OSError: it can't be read.
    """
    read_header(path, f"file={str(path)!r}")
    return load_file(path)


WEIGHTS_FILE = "model.safetensors"


_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}


_SPARE_PARAMETERS = 1 << 24


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file.

    Args:
        dtype: as the header spells it, `F32` for instance.
        shape: sizes.
    """

    dtype: str
    shape: tuple[int, ...]


def read_header(path: str | Path, label: str) -> dict[str, StoredTensor]:
    """Read which tensors a safetensors file holds, and that its bytes are theirs exactly.

    Args:
        path: the file.
        label: first words of every message.

    Returns:
        `dict`: name → [`StoredTensor`].

    Raises:
        ValueError: cut off, or a header that does not describe this file.
        OSError: the file can't be read.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{label} is no file")
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise ValueError(f"{label} is cut off or no safetensors ({size:,} bytes)")
        header = _decoded(file.read(length), label)
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    _check_metadata(header.get("__metadata__", {}), label)
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: _offsets(*item, label=label)):
        begin, stop = _offsets(name, entry, label=label)
        if begin != end or stop - begin != _size_bytes(name, entry, label):
            raise ValueError(f"{label}: bytes of tensor {shown(name)} don't fit its shape")
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"{label} has {size:,} bytes, its header tells of {end + 8 + length:,}")
    return {name: StoredTensor(entry["dtype"], tuple(entry["shape"])) for name, entry in tensors.items()}


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
        headers = [read_header(file, file.name) for file in files]
    except ValueError as error:
        raise ValueError(f"{label}: its weights are unreadable ({error}); copy or download them again") from error
    held = sum(math.prod(tensor.shape) for header in headers for tensor in header.values())
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


def _decoded(content: bytes, label: str) -> dict[str, Any]:
    try:
        header = parse_json(content.decode("utf-8"), f"{label}, in its header,")
    except UnicodeDecodeError as error:
        raise ValueError(f"{label} has a header that is no UTF-8") from error
    if not isinstance(header, dict):
        raise ValueError(f"{label} has {shown(header)} for a header")
    return header


def _check_metadata(metadata: Any, label: str) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{label} has __metadata__={shown(metadata)}; expected names and strings")
    if metadata.get("format", "pt") != "pt":
        raise ValueError(f"{label} has the format {shown(metadata['format'])}; expected pt: save it from PyTorch")


def _offsets(name: str, entry: Any, *, label: str) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, Mapping) else None
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(f"{label}: tensor {shown(name)} is {shown(entry)}; expected dtype, shape and data_offsets")
    return offsets[0], offsets[1]


def _size_bytes(name: str, entry: Mapping[str, Any], label: str) -> int:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(
            f"{label}: tensor {shown(name)} has dtype={shown(dtype)}; expected one of {', '.join(_ITEM_BYTES)}"
        )
    if not isinstance(shape, list) or not all(map(_is_size, shape)):
        raise ValueError(f"{label}: tensor {shown(name)} has shape={shown(shape)}; expected sizes")
    return math.prod(shape) * _ITEM_BYTES[dtype]


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
