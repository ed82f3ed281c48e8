"""The library that multiplies bits: compilers that fail in all ways, and every path that its file has."""

import itertools
import math
import platform
import re
import shutil

import pytest
import torch
from rows import each

from homodistil_hf.methods.binarization.bit_products import BitProduct, compiled, multiply_heads
from homodistil_hf.models.architectures.modeling_binarybert import (
    BinaryBertConfig,
    BinarySelfAttention,
    ElasticQuantizer,
    PackedLinear,
)

REAL = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
pytestmark = [pytest.mark.skipif(REAL is None, reason="no C compiler here"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def _not_compiled_yet():
    compiled.cache_clear()
    yield
    compiled.cache_clear()


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Lets CC name a script."""

    def write(script):
        path = tmp_path / "own-cc"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))

    return write


WRITE = 'for word; do out="$word"; done\n'  # the last word is the library

FAILURES = {
    "writes nothing": ("exit 0", "bit_products.so: cannot open shared object file|image not found"),
    "fails without a word": ("exit 3", "non-zero exit status 3"),
    "says why": ("echo no licence; exit 1", "no licence"),
    "writes no library": (WRITE + 'echo hello > "$out"', "file too short|invalid ELF header"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_compiler_that_fails_is_told(name, compiler, monkeypatch, caplog):
    script, message = FAILURES[name]
    compiler(script)
    assert compiled() is None
    assert re.search(message, caplog.text)
    monkeypatch.delenv("CC")
    compiled.cache_clear()
    assert compiled() is not None


@each(
    ("command", "message"),
    [("gcc 'x", "CC=gcc 'x, .* No closing quotation"), ("/nowhere/cc", "No such file or directory: '/nowhere/cc'")],
)
def test_a_broken_command_line_is_told(command, message, monkeypatch, caplog):
    monkeypatch.setenv("CC", command)
    compiled.cache_clear()
    assert compiled() is None
    assert re.search(message, caplog.text)


def test_a_process_compiles_once():
    assert compiled() is compiled() is not None


PATHS = {
    "all that this processor has": "",
    "without vectors of 512 bits": "-mno-avx512f",
    "without products of bytes": "-mno-avx512vnni -mno-avxvnni",
    "vectors of 128 bits": "-march=x86-64-v2",
    "plain C": "-march=x86-64",
}


@pytest.fixture(params=PATHS)
def _path(request, compiler):
    flags = PATHS[request.param]
    if flags and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("flags of another processor")
    compiler(f'exec {REAL} "$@" {flags}')
    if compiled() is None:
        pytest.skip("this compiler doesn't know the flags")


@pytest.mark.usefixtures("_path")
def test_products_of_every_path_are_the_simulated_ones():
    torch.manual_seed(0)
    # 1100 inputs have two pieces and no whole words, 37 outputs no whole tiles, 7 rows no whole block
    for bits, is_signed, inputs in itertools.product((1, 2, 4, 8), (True, False), (3, 64, 1100)):
        config = BinaryBertConfig(activation_bits=bits)
        layer = PackedLinear(inputs, 37, config, is_signed=is_signed)
        layer.packed.random_(256)
        layer.bias.data.normal_()
        values = torch.randn(7, inputs) if is_signed else torch.rand(7, inputs)
        layer.quantizer.calibrate(values)
        layer.quantizer.offset.data.fill_(0.2)
        with torch.no_grad():
            wanted = layer(values)
            layer.multiply = BitProduct(layer)
            assert layer(values).equal(wanted)


def test_a_product_that_was_made_on_another_processor_is_made_anew(compiler, monkeypatch):
    torch.manual_seed(0)
    layer = PackedLinear(70, 20, BinaryBertConfig(activation_bits=1))
    layer.packed.random_(256)
    values = torch.randn(5, 70)
    with torch.no_grad():
        wanted = layer(values)
        compiler(f'exec {REAL} "$@" -mno-avx512f')
        if compiled() is None:
            pytest.skip("this compiler doesn't know the flag")
        layer.multiply = BitProduct(layer)
        assert not layer.multiply.is_counted
        monkeypatch.delenv("CC")
        compiled.cache_clear()
        assert layer(values).equal(wanted)
        assert layer.multiply.is_counted == compiled().counts_bits(1)


def attention_of(bits, *, two_sets):
    """A layer's attention of three heads of 5 channels, and its products: queries and keys, shares and values."""
    config = BinaryBertConfig(activation_bits=bits, two_sets=two_sets, hidden_size=15, num_attention_heads=3)
    float_attention = torch.nn.Module()
    float_attention.num_attention_heads, float_attention.attention_head_size = 3, 5
    float_attention.scaling, float_attention.dropout = 5**-0.5, torch.nn.Identity()
    for name in ("query", "key", "value"):
        setattr(float_attention, name, torch.nn.Linear(15, 15))
    attention = BinarySelfAttention(float_attention, config).eval()
    hidden = torch.randn(2, 41, 15)
    quantizers = [module for module in attention.modules() if isinstance(module, ElasticQuantizer)]
    for quantizer in quantizers:
        quantizer.calibrates = True
    with torch.no_grad():
        attention(hidden)
    for quantizer in quantizers:
        quantizer.calibrates = False
    attention.share_bits.offset.data.fill_(-0.7)  # a share of 0 has another code
    return attention, hidden


@pytest.mark.usefixtures("_path")
def test_attention_of_every_path_is_the_simulated_one():
    torch.manual_seed(0)
    lowest = torch.finfo(torch.float32).min
    padding = torch.zeros(2, 1, 1, 41).index_fill(-1, torch.tensor([3, 40]), lowest)
    masks = [None, padding, padding.expand(2, 1, 41, 41)]
    for bits, two_sets, mask in itertools.product((1, 2, 4, 8), (True, False), masks):
        attention, hidden = attention_of(bits, two_sets=two_sets)
        calls = []

        def multiply(*args, calls=calls, **kwargs):
            calls.append(multiply_heads(*args, **kwargs))
            return calls[-1]

        with torch.no_grad():
            wanted = attention(hidden, mask)
            attention.multiply = multiply
            found = attention(hidden, mask)
        assert len(calls) == 2
        assert all(call is not None for call in calls)
        assert all(one.equal(other) for one, other in zip(found, wanted, strict=True))


def test_torch_takes_products_of_nan_of_other_types_and_of_masks_by_row():
    torch.manual_seed(0)
    attention, hidden = attention_of(4, two_sets=True)
    by_row = torch.zeros(2, 1, 41, 41).masked_fill(torch.ones(41, 41).triu(1).bool(), torch.finfo(torch.float32).min)
    spoilt = hidden.clone()
    spoilt[1, 7, 3] = math.nan
    with torch.no_grad():
        for values, mask in ((hidden, by_row), (spoilt, None)):
            attention.multiply = None
            wanted = attention(values, mask)
            attention.multiply = multiply_heads
            found = attention(values, mask)
            assert all(
                torch.allclose(*pair, rtol=0, atol=0, equal_nan=True) for pair in zip(found, wanted, strict=True)
            )
        assert found[0][1].isnan().all()
        assert not found[0][0].isnan().any()
        assert attention.bfloat16()(hidden.bfloat16())[0].dtype == torch.bfloat16
