"""Inference that multiplies bits: the C file beside this one, compiled when it is first asked for.

A product of whole numbers is exact either way, so what comes out is bit for bit what [`PackedLinear`] computes in
float32 without it. Where there is no C compiler, models stay as they are.

Shapes: R rows, I inputs, O outputs, W words of 64 bits, ⌈I / 64⌉, K bits of an input.
"""

import ctypes
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ...models.architectures.modeling_binarybert import PackedLinear, unpack

logger = logging.getLogger(__name__)
SOURCE = Path(__file__).with_suffix(".c")
_TILE = 16  # outputs beside each other, as in the C file
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")  # rounds where torch does
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
    if not layers or compiled() is None:
        return False
    for layer in layers:
        layer.multiply = BitProduct(layer)
    return True


class BitProduct:
    """The product of one packed layer, whose bits are laid out anew, once: `(⌈O / 16⌉, W, 16)` words."""

    def __init__(self, layer: PackedLinear):
        signs_OI = unpack(layer.packed.cpu(), layer.in_features)
        self.num_inputs, self.num_outputs = layer.in_features, layer.out_features
        # bit 1 for +1 and 0 for −1, 64 inputs a word: (O, I) → (O, W, 64), with zeros behind the last input
        bits_OW64 = F.pad((signs_OI > 0).long(), (0, -self.num_inputs % 64)).unflatten(1, (-1, 64))
        # bit i of word w is input 64w + i; bits don't overlap, so their sum, negative with bit 63, is their union
        words_OW = (bits_OW64 << torch.arange(64)).sum(-1)
        # (O, W) → (⌈O / 16⌉, 16, W) → (⌈O / 16⌉, W, 16): the same word of 16 outputs lies together
        tiles = F.pad(words_OW, (0, 0, 0, -self.num_outputs % _TILE)).unflatten(0, (-1, _TILE))
        self.weights = tiles.transpose(1, 2).contiguous()
        # S = Σ_i w_i of each output; those that fill the last tile have 0
        self.sums_O = F.pad(signs_OI.sum(1).long(), (0, -self.num_outputs % _TILE))
        self.num_words = words_OW.shape[1]

    @torch.no_grad()
    def __call__(self, layer: PackedLinear, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """`(…, I)` → `(…, O)` of the values' type: quantized, multiplied, times `scale`, plus bias, all in float32."""
        quantizer = layer.quantizer
        # values are low + step · u with u of K bits: {−1, 1} is −1 + 2u with u of one bit
        step = 2 if quantizer.is_sign else 1
        num_bits = ((quantizer.high - quantizer.low) // step).bit_length()
        # C computes x / scale − offset in float32; of another type it gets the result, with (0, 1) as offset and scale
        scaling: tuple[Any, Any] = (quantizer.offset.detach(), quantizer.scale.detach())
        if (scaled := values.detach()).dtype != torch.float32:  # it rounds as its own type does
            scaled, scaling = scaled / quantizer.scale - quantizer.offset, (0.0, 1.0)
        values_RI = scaled.float().reshape(-1, self.num_inputs).contiguous()
        num_rows = len(values_RI)
        # what the two functions fill: the bits, 0 or NaN for each row, the product
        planes_KRW = torch.empty(num_bits, num_rows, self.num_words, dtype=torch.int64)
        spoilt_R, found_RO = torch.empty(num_rows), torch.empty(num_rows, self.num_outputs)
        bias_O = layer.bias.detach().float().contiguous()
        # x → u, bit by bit
        library: Any = compiled()
        library.pack_values(
            *_addresses(values_RI, planes_KRW, spoilt_R),
            *(num_rows, self.num_inputs, num_bits, int(quantizer.is_sign)),
            *(quantizer.low, quantizer.high, *map(float, scaling)),
        )
        # low · S + step · Σ_k 2ᵏ (2 count(u_k & w) − count(u_k)), times scale, plus bias
        library.multiply_bits(
            *_addresses(planes_KRW, self.weights, self.sums_O, bias_O, spoilt_R, found_RO),
            *(num_rows, self.num_outputs, self.num_words, num_bits),
            *(quantizer.low, step, float(scale.detach())),
        )
        return found_RO.reshape(*values.shape[:-1], self.num_outputs).to(values.dtype)


@lru_cache(maxsize=1)
def compiled() -> ctypes.CDLL | None:
    """Compile the C file for this machine, once a process, and load it; None where no compiler does it."""
    command = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), _COMPILERS[0])
    run = partial(subprocess.run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    try:
        # a library stays loaded without its file
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder, "bit_products.so"))
            words = [*shlex.split(command), *_FLAGS]
            if run([*words, "-fopenmp", str(SOURCE), "-o", path]).returncode:  # without OpenMP one thread multiplies
                run([*words, str(SOURCE), "-o", path], check=True)
            library = ctypes.CDLL(path)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        output = str(getattr(error, "output", None) or "")[-500:].strip()
        logger.warning("%s was not compiled by CC=%s, or does not load: %s", SOURCE.name, command, output or error)
        return None
    address, count, number = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
    library.pack_values.argtypes = [address] * 3 + [count] * 2 + [ctypes.c_int] * 2 + [number] * 4
    library.multiply_bits.argtypes = [address] * 6 + [count] * 3 + [ctypes.c_int] + [number] * 3
    return library


def _addresses(*tensors: torch.Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
