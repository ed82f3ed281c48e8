"""Files of weights: loaded, or refused if damaged, outside their folder or far too small for the configuration."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .inside import stays_inside
from .messages import short_repr
from .strict_json import fits, read_json_object

WEIGHTS_FILE = "model.safetensors"
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHT_SUFFIXES = (".safetensors", ".bin")
_SPARE_PARAMETERS = 1 << 24
_SHOWN_CHARS = 200  # of safetensors' message, which may quote a header


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Load a safetensors file into memory: name → tensor; `ValueError` if it is missing, cut off or something else."""
    if not path.is_file():
        raise ValueError(f"file={str(path)!r} is no file")
    try:
        # safetensors maps the file: a tensor lies where the length of the header puts it, and matrix products round
        # by the place of their operands. A copy lies where any new tensor does, so a resumed run rounds as before.
        return {name: tensor.clone() for name, tensor in load_file(path).items()}
    except SafetensorError as error:
        reason = str(error)[:_SHOWN_CHARS]
        raise ValueError(f"file={str(path)!r} is cut off or no safetensors ({reason})") from error


def check_weights(folder: str | Path, num_parameters: int, label: str) -> None:
    """Check the files of a model's folder before memory is taken for its weights.

    Raises:
        ValueError: an index that names what is no file of the folder, or more parameters than the files have bytes.
    """
    folder = Path(folder)
    for index in _INDEX_FILES:
        if not (folder / index).is_file():
            continue
        where = f"{label}: {index}"
        content = read_json_object(folder / index, where)
        if not fits(content, {"weight_map": {...: str}}):
            raise ValueError(
                f"{where} has weight_map={short_repr(content.get('weight_map'))}; expected tensor → file name"
            )
        for name in dict.fromkeys(content["weight_map"].values()):
            if not stays_inside(name):
                raise ValueError(
                    f"{where} names {short_repr(name)}, which is outside the folder; expected files in it"
                )
            # To open a pipe would wait for ever; what is missing is named by the loader.
            if os.path.exists(folder / name) and not os.path.isfile(folder / name):
                raise ValueError(f"{where} names {short_repr(name)}, which is a folder or device; expected files")
    files = (path for path in folder.rglob("*") if path.suffix in _WEIGHT_SUFFIXES and path.is_file())
    size_bytes = sum(path.stat().st_size for path in files)
    # a stored weight takes a byte at least, so a larger model can't be in these files
    if num_parameters > size_bytes + _SPARE_PARAMETERS:
        raise ValueError(
            f"{label} holds {size_bytes:,} bytes of weights, its config.json describes {num_parameters:,} weights; "
            "mend config.json, or copy or download the weights again"
        )
