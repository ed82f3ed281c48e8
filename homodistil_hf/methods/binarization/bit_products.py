"""Inference that multiplies bits: the C file beside this one, compiled when it is first asked for.

A product of whole numbers is exact either way, so what comes out is bit for bit what [`PackedLinear`] computes in
float32 without it. Where there is no C compiler, models stay as they are.

Shapes: R rows, I inputs, O outputs, W words of 64 inputs, ⌈I / 64⌉; B batch, N heads.
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
from torch import nn
from torch.nn import functional as F

from ...models.architectures.modeling_binarybert import (
    BinarySelfAttention,
    ElasticQuantizer,
    PackedLinear,
    scale_of,
    unpack,
)

logger = logging.getLogger(__name__)
SOURCE = Path(__file__).with_suffix(".c")
_WORD, _TILE = 64, 16  # inputs and outputs that lie together, as in the C file
_FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-shared", "-fPIC")  # rounds where torch does
_COMPILERS = ("cc", "gcc", "clang")


def multiply_bits(model: nn.Module) -> bool:
    """Let all packed layers and attentions of a model multiply bits from now on, wherever their inputs are on a CPU.

    Args:
        model: with [`PackedLinear`] layers; from memory, or from a folder with `trust_remote_code`; of
            sentence-transformers the whole model.

    Returns:
        Whether they do: False where nothing is packed, activations are float, or nothing could be compiled, which the
        log explains.
    """
    # By name: a folder's own modelling file has classes of its own.
    modules: dict[str, list[Any]] = {PackedLinear.__name__: [], BinarySelfAttention.__name__: []}
    for module in model.modules():
        modules.get(type(module).__name__, []).append(module)
    layers, attentions = modules.values()
    missing = "packed layers" if not layers else "activations of few bits"
    config: Any = model.config
    if not layers or config.activation_bits == 32:
        logger.warning("model=%s has no %s, so there are no bits to multiply", type(model).__name__, missing)
        return False
    if compiled() is None:
        return False
    for layer in layers:
        layer.multiply = BitProduct(layer)
    for attention in attentions:
        attention.multiply = multiply_heads
    return True


class BitProduct:
    """The product of one packed layer, whose bits are laid out anew, once: 16 outputs × 64 inputs lie together."""

    def __init__(self, layer: PackedLinear):
        signs_OI = unpack(layer.packed.cpu(), layer.in_features)
        quantizer = layer.quantizer
        self.num_inputs, self.num_outputs = layer.in_features, layer.out_features
        # values are low + step · u with u of K bits: {−1, 1} is −1 + 2u with u of one bit
        self.num_bits = ((quantizer.high - quantizer.low) // (2 if quantizer.is_sign else 1)).bit_length()
        # bit 1 for +1 and 0 for −1, with zeros behind the last input and output: (O, I) → (⌈O / 16⌉, 16, W · 64)
        padding = (0, -self.num_inputs % _WORD, 0, -self.num_outputs % _TILE)
        bits = F.pad((signs_OI > 0).to(torch.uint8), padding).unflatten(0, (-1, _TILE))
        self.num_words = bits.shape[-1] // _WORD
        self.is_counted = compiled().counts_bits(self.num_bits)
        self.weights = _words(bits) if self.is_counted else _choices(bits)
        # low · Σ_i w_i of each output
        self.low_sums_O = (quantizer.low * signs_OI.sum(1)).int()

    def __call__(self, layer: PackedLinear, values: torch.Tensor) -> torch.Tensor:
        """`(…, I)` → `(…, O)` of the values' type: quantized, multiplied and scaled, plus bias, all in float32."""
        library = compiled()
        if library.counts_bits(self.num_bits) != self.is_counted:  # from a pickle, made on another processor
            layer.multiply = BitProduct(layer)
            return layer.multiply(layer, values)
        quantizer = layer.quantizer
        coding = _coding_of(quantizer)
        scale, scaled = coding.scale * layer.weight_scale.item(), values.detach()
        # C computes x / scale − offset in float32; of another type it gets the result, which rounds as that type does
        if values.dtype != torch.float32:
            scaled = (scaled / quantizer.scale - quantizer.offset).detach().float()
            coding = _Quantizer(0.0, 1.0, coding.low, coding.high, coding.is_sign)
        found = torch.empty(*values.shape[:-1], self.num_outputs)
        scaled, bias_O = scaled.contiguous(), layer.bias.detach().float().contiguous()
        is_done = library.multiply_bits(
            *_addresses(scaled, self.weights, self.low_sums_O, bias_O, found),
            *(found.numel() // self.num_outputs, self.num_inputs, self.num_outputs, self.num_bits, coding, scale),
        )
        if not is_done:
            raise MemoryError(f"no memory for the product of {tuple(values.shape)} values of few bits")
        return found.to(values.dtype)


def multiply_heads(
    quantizers: tuple[ElasticQuantizer, ElasticQuantizer],
    left_BNRI: torch.Tensor,
    right_BNIO: torch.Tensor,
    *,
    factor: float = 1.0,
    kept: torch.Tensor | None = None,
) -> torch.Tensor | None:
    """Attention's products, as `BinarySelfAttention` takes them: `(B, N, R, I)`, `(B, N, I, O)` → `(B, N, R, O)`.

    Returns:
        Factor · left · right, of codes, float32; None where torch has to multiply: of other types, of NaN, and where
        `kept`, that can be expanded to `(B, 1, R, I)`, differs between rows.
    """
    (batch, heads, rows, inputs), outputs = left_BNRI.shape, right_BNIO.shape[-1]
    if left_BNRI.dtype != torch.float32 or right_BNIO.dtype != torch.float32:
        return None
    if kept is not None:
        kept = kept.expand(batch, kept.shape[1], rows, inputs)
        if not kept.equal(kept[:, :1, :1].expand_as(kept)):
            return None
        kept = kept[:, 0, 0].to(torch.uint8).contiguous()
    if left_BNRI.stride(-1) != 1:
        left_BNRI = left_BNRI.contiguous()
    if 1 not in right_BNIO.stride()[2:]:
        right_BNIO = right_BNIO.contiguous()
    # heads lie beside each other where the right one's do, as a layer takes them
    found = torch.empty(batch, heads, rows, outputs)
    if right_BNIO.stride(-1) == 1:
        found = torch.empty(batch, rows, heads, outputs).transpose(1, 2)
    one, other = quantizers
    is_done = compiled().multiply_heads(
        *_addresses(left_BNRI, right_BNIO),
        kept if kept is None else kept.data_ptr(),
        found.data_ptr(),
        *(_longs(batch, heads, rows, inputs, outputs), _longs(*left_BNRI.stride())),
        *(_longs(*right_BNIO.stride()), _longs(*found.stride())),
        *(_coding_of(one), _coding_of(other), factor),
    )
    return found if is_done else None


class _Quantizer(ctypes.Structure):
    """The struct of this name in C."""

    _fields_ = (
        *((name, ctypes.c_float) for name in ("offset", "scale", "low", "high")),
        ("is_sign", ctypes.c_int),
    )


def _coding_of(quantizer: ElasticQuantizer) -> _Quantizer:
    # what C is given of a quantizer; numbers that were met before cost no arithmetic
    log_scale = quantizer.log_scale
    sizes = quantizer.low, quantizer.high, quantizer.is_sign
    return _coding(log_scale.item(), quantizer.offset.item(), log_scale.dtype, *sizes)


@lru_cache(maxsize=4096)
def _coding(log_scale: float, offset: float, dtype: torch.dtype, low: int, high: int, is_sign: bool) -> _Quantizer:
    return _Quantizer(offset, scale_of(torch.tensor(log_scale, dtype=dtype)).item(), low, high, is_sign)


@lru_cache(maxsize=1024)
def _longs(*values: int) -> Any:
    return (ctypes.c_long * len(values))(*values)


def _words(bits: torch.Tensor) -> torch.Tensor:
    """`(tiles, 16, W · 64)` uint8 of 0 and 1 → `(tiles, W, 16)` int64: bit i of a word is input i of its 64."""
    # bits don't overlap, so their sum, negative with bit 63, is their union
    words = (bits.unflatten(-1, (-1, _WORD)).long() << torch.arange(_WORD)).sum(-1)
    return words.transpose(1, 2).contiguous()


def _choices(bits: torch.Tensor) -> torch.Tensor:
    """`(tiles, 16, W · 64)` uint8 of 0 and 1 → `(tiles, W, 128)` uint8: four inputs in each half of a byte."""
    # outputs 0, 8, 1, 9 … of a tile; inputs of a word by 32, 16, 4 and 1
    parts = bits.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2).unflatten(-1, (-1, 2, 2, 4, 4))
    places = torch.arange(8, dtype=torch.uint8).view(2, 1, 4)  # lower and upper half, four bits each
    bytes_ = (parts << places).sum((-3, -1), dtype=torch.uint8)  # (tiles, 16, W, 2, 4)
    return bytes_.permute(0, 2, 3, 4, 1).flatten(2).contiguous()


@lru_cache(maxsize=1)
def compiled() -> Any:
    """Compile the C file for this machine, once a process; the `ctypes.CDLL`, or None where no compiler does it."""
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
    library.counts_bits.argtypes = [ctypes.c_int]
    library.multiply_bits.argtypes = [address] * 5 + [count] * 3 + [ctypes.c_int, _Quantizer, number]
    library.multiply_heads.argtypes = [address] * 4 + [ctypes.POINTER(count)] * 4 + [_Quantizer] * 2 + [number]
    return library


def _addresses(*tensors: torch.Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
