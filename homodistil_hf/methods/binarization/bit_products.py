"""Inference that multiplies bits: the C file beside this one, compiled when it is first asked for.

A product of whole numbers is exact either way, so what comes out is bit for bit what [`PackedLinear`] computes in
float32 without it. Where there is no C compiler, models stay as they are.

Shapes: R rows, I inputs, O outputs, W words of 64 bits, ⌈I / 64⌉, K bits of an input.
"""

import ctypes
import hashlib
import itertools
import logging
import os
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...files.caches import cached
from ...models.architectures.modeling_binarybert import PackedLinear, unpack

logger = logging.getLogger(__name__)
SOURCE = Path(__file__).with_suffix(".c")
_TILE = 16  # outputs beside each other, as in the C file
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")  # rounds where torch does
_LIBRARY = "bit_products.so"
_COMPILERS = ("cc", "gcc", "clang")


def multiply_bits(model: PreTrainedModel) -> bool:
    """Let all packed layers of a model multiply bits from now on, wherever their inputs are on a CPU.

    Args:
        model: with [`PackedLinear`] layers; from memory, or from a folder with `trust_remote_code`.

    Returns:
        Whether they do: False where nothing is packed, or where nothing could be compiled, which the log explains.
    """
    # By name: a folder's own modelling file has a class of its own.
    layers: list[Any] = [module for module in model.modules() if type(module).__name__ == PackedLinear.__name__]
    if not layers:
        logger.warning("model=%s has no packed layers, so there are no bits to multiply", type(model).__name__)
    library = compiled() if layers else None
    if library is None:
        return False
    for layer in layers:
        layer.multiply = BitProduct(library, layer)
    return True


class BitProduct:
    """The product of one packed layer.

    Args:
        library: what [`compiled`] returns.
        layer: its bits are laid out anew, once: `(⌈O / 16⌉, W, 16)` words.
    """

    def __init__(self, library: ctypes.CDLL, layer: PackedLinear):
        self.library = library
        signs_OI = unpack(layer.packed.cpu(), layer.in_features)
        self.num_inputs, self.num_outputs = layer.in_features, layer.out_features
        words_OW = _words(signs_OI > 0)
        tiles = F.pad(words_OW, (0, 0, 0, -self.num_outputs % _TILE)).unflatten(0, (-1, _TILE))
        self.weights = tiles.transpose(1, 2).contiguous()
        self.sums_O = F.pad(signs_OI.sum(1).long(), (0, -self.num_outputs % _TILE))
        self.num_words = words_OW.shape[1]

    @torch.no_grad()
    def __call__(self, layer: PackedLinear, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """`(…, I)` → `(…, O)` of the values' type: quantized, multiplied, times `scale`, plus bias, all in float32."""
        quantizer = layer.quantizer
        step = 2 if quantizer.is_sign else 1
        num_bits = ((quantizer.high - quantizer.low) // step).bit_length()
        scaling = quantizer.offset, quantizer.scale
        if (scaled := values.detach()).dtype != torch.float32:  # it rounds as its own type does
            scaled, scaling = scaled / quantizer.scale - quantizer.offset, (0.0, 1.0)
        values_RI = scaled.float().reshape(-1, self.num_inputs).contiguous()
        num_rows = len(values_RI)
        planes_KRW = torch.empty(num_bits, num_rows, self.num_words, dtype=torch.int64)
        spoilt_R, found_RO = torch.empty(num_rows), torch.empty(num_rows, self.num_outputs)
        bias_O = layer.bias.detach().float().contiguous()
        self.library.pack_values(
            _address(values_RI),
            _address(planes_KRW),
            _address(spoilt_R),
            *_longs(num_rows, self.num_inputs),
            num_bits,
            int(quantizer.is_sign),
            *_floats(quantizer.low, quantizer.high, *scaling),
        )
        self.library.multiply_bits(
            *map(_address, (planes_KRW, self.weights, self.sums_O, bias_O, spoilt_R, found_RO)),
            *_longs(num_rows, self.num_outputs, self.num_words),
            num_bits,
            *_floats(quantizer.low, step, scale),
        )
        return found_RO.reshape(*values.shape[:-1], self.num_outputs).to(values.dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the library out: it is loaded again, or compiled, where this is unpickled or copied."""
        return _restored, ({name: value for name, value in vars(self).items() if name != "library"},)


def _restored(state: dict[str, Any]) -> BitProduct | None:
    """Undo `BitProduct.__reduce__`; None, as before [`multiply_bits`], where nothing can be compiled."""
    library = compiled()
    if library is None:
        return None
    product = BitProduct.__new__(BitProduct)
    vars(product).update(state, library=library)
    return product


def compiled() -> ctypes.CDLL | None:
    """Compile the C file for this machine unless that is done, and load it; None where no compiler does it."""
    named = [shlex.split(os.environ["CC"])] if os.environ.get("CC") else [[name] for name in _COMPILERS]
    compilers = [words for words in named if words and shutil.which(words[0])]
    content = SOURCE.read_bytes() + " ".join(_FLAGS).encode() + _processor()
    try:
        folder = cached("code", hashlib.sha256(content).hexdigest()[:16], partial(_compile, compilers))
        return ctypes.CDLL(str(folder / _LIBRARY))
    except OSError as error:
        logger.warning("%s was not compiled, or does not load: %s", SOURCE.name, error)
        return None


def _compile(compilers: Sequence[Sequence[str]], folder: Path) -> None:
    errors = [f"none of {', '.join(_COMPILERS)} is on the path, nor does CC name one"]
    for compiler, threads in itertools.product(compilers, (["-fopenmp"], [])):  # without OpenMP one thread multiplies
        words = [*compiler, *_FLAGS, *threads, str(SOURCE), "-o", str(folder / _LIBRARY)]
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        if run.returncode == 0:
            return
        errors.append(run.stderr[-500:])
    raise OSError(errors[-1])


def _processor() -> bytes:
    """What `-march=native` depends on: a cache may lie on a disk that machines share."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return b""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "").encode()


def _words(bits_OI: torch.Tensor) -> torch.Tensor:
    """`(O, I)` bool → `(O, W)` int64."""
    padded = F.pad(bits_OI.long(), (0, -bits_OI.shape[1] % 64)).unflatten(1, (-1, 64))
    return (padded << torch.arange(64)).sum(-1)


def _address(tensor: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _longs(*values: int) -> list[ctypes.c_long]:
    return [ctypes.c_long(value) for value in values]


def _floats(*values: float | torch.Tensor) -> list[ctypes.c_float]:
    return [ctypes.c_float(float(value.detach() if isinstance(value, torch.Tensor) else value)) for value in values]
