"""Layers of bits: their values, gradients and packed form, and the product of bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from homodistil_hf.methods.binarization.bit_products import BitProduct, compiled, multiply_bits
from homodistil_hf.models.architectures.modeling_binarybert import (
    BinaryBertConfig,
    BinaryBertForSequenceClassification,
    BinaryEmbedding,
    BinaryLinear,
    ElasticQuantizer,
    PackedEmbedding,
    PackedLinear,
    pack,
    unpack,
    weight_signs,
)

QUICK = settings(max_examples=20, deadline=None)
SETS = {
    (1, True): [-1, 1],
    (1, False): [0, 1],
    (2, True): [-2, -1, 0, 1],
    (2, False): [0, 1, 2, 3],
    (4, True): list(range(-8, 8)),
    (8, False): list(range(256)),
}


def config_of(**changes):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BinaryBertConfig(**sizes | no_dropout | {"vocab_size": 60, "max_position_embeddings": 32} | changes)


@pytest.mark.parametrize(("bits", "is_signed"), SETS)
def test_activations_are_of_their_set(bits, is_signed):
    quantizer = ElasticQuantizer(bits, is_signed=is_signed, is_elastic=True)
    values = torch.randn(50, 40) * 3
    quantizer.calibrate(values)
    codes, _ = quantizer(values)
    assert set(codes.detach().round(decimals=5).unique().tolist()) <= set(map(float, SETS[bits, is_signed]))
    assert len(codes.unique()) > 1


@pytest.mark.parametrize(("bits", "is_signed"), SETS)
def test_scales_start_where_the_squared_error_is_least(bits, is_signed):
    quantizer = ElasticQuantizer(bits, is_signed=is_signed, is_elastic=True)
    torch.manual_seed(0)
    values = 2 * torch.randn(300, 400) if is_signed else torch.randn(300, 400).mul(2).softmax(1)  # attention's shares
    quantizer.calibrate(values)

    def error(scale):
        return (scale * quantizer.quantized(values / scale) - values).square().mean().item()

    start = quantizer.scale.detach()
    assert all(error(start) <= error(start * factor) * 1.02 for factor in (0.5, 0.8, 1.25, 2.0))


@pytest.mark.parametrize(("bits", "is_signed"), SETS)
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_gradients_are_those_of_the_smooth_surrogate(bits, is_signed, threshold):
    """Straight through: α · (c + constant) with c the clipped value and the constant what rounding adds to it."""
    quantizer = ElasticQuantizer(bits, is_signed=is_signed, is_elastic=True).double()
    torch.manual_seed(0)
    values = torch.randn(200, dtype=torch.float64).mul(2).requires_grad_()
    weights = torch.randn(200, dtype=torch.float64)
    with torch.no_grad():
        quantizer.log_scale.fill_(math.log(0.7))
        quantizer.offset.fill_(threshold / 0.7)
    codes, scale = quantizer(values)
    (codes * scale * weights).sum().backward()

    def clipped(x, scale, beta):
        return ((x - beta) / scale).clamp(quantizer.low, quantizer.high)

    at = values.detach(), 0.7, threshold
    rounding = codes.detach() - clipped(*at)
    eps = 1e-6

    def slope(which):
        ends = [clipped_with(which, sign * eps) for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * eps)

    def clipped_with(which, shift):
        moved = [one + shift * (index == which) for index, one in enumerate(at)]
        return moved[1] * (clipped(*moved) + rounding) * weights

    near_bound = (clipped(*at) - (at[0] - threshold) / 0.7).abs().lt(1e-4) & (
        (clipped(*at) - quantizer.low).abs().lt(1e-4) | (clipped(*at) - quantizer.high).abs().lt(1e-4)
    )
    assert torch.allclose(values.grad[~near_bound], slope(0)[~near_bound], atol=1e-5)
    factor = (200 * quantizer.high) ** -0.5
    of_scale, of_threshold = (factor * slope(which).sum().item() for which in (1, 2))
    # Where β / α stays, β moves along with α.
    in_logarithm = 0.7 * of_scale + threshold * of_threshold
    assert quantizer.log_scale.grad.item() == pytest.approx(in_logarithm, rel=1e-4, abs=1e-9)
    assert quantizer.offset.grad.item() == pytest.approx(0.7 * of_threshold, rel=1e-4, abs=1e-9)


def test_weights_are_two_values_and_learn_straight_through():
    layer = BinaryLinear(16, 8, config_of())
    values = torch.randn(5, 16)
    layer.quantizer.calibrate(values)
    out = layer(values)
    with torch.no_grad():
        size, mean = layer.weight.abs().mean(), layer.weight.mean()
        weight = size * torch.where(layer.weight >= mean, 1.0, -1.0)
        activations = torch.mul(*layer.quantizer(values))
    assert torch.allclose(out, F.linear(activations, weight, layer.bias), atol=1e-5)
    upstream = torch.randn_like(out)
    out.backward(upstream)
    assert torch.allclose(layer.weight.grad, upstream.T @ activations, atol=1e-5)


@QUICK
@given(st.integers(1, 40), st.integers(1, 70), st.integers(0, 99))
def test_packing_is_undone_by_unpacking(num_rows, num_inputs, seed):
    signs = weight_signs(torch.randn(num_rows, num_inputs, generator=torch.Generator().manual_seed(seed)))
    packed = pack(signs)
    assert (packed.dtype, packed.shape) == (torch.uint8, (num_rows, -(-num_inputs // 8)))
    assert unpack(packed, num_inputs).equal(signs)


def packed_like(layer, config):
    """The same layer with bits."""
    other = PackedLinear(layer.in_features, layer.out_features, config, is_signed=layer.quantizer.low < 0)
    other.packed = pack(weight_signs(layer.weight))
    other.weight_scale = layer.weight.detach().abs().mean()
    other.load_state_dict(
        layer.state_dict() | {"packed": other.packed, "weight_scale": other.weight_scale}, strict=False
    )
    return other


@QUICK
@given(
    st.sampled_from([1, 2, 4, 8]),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 140),
    st.integers(1, 40),
    st.integers(0, 99),
)
def test_packed_layers_and_products_of_bits_are_the_layer_itself(bits, is_signed, rows, inputs, outputs, seed):
    library = compiled()
    torch.manual_seed(seed)
    config = config_of(activation_bits=bits)
    layer = BinaryLinear(inputs, outputs, config, is_signed=is_signed)
    values = torch.randn(2, rows, inputs)
    layer.quantizer.calibrate(values)
    packed = packed_like(layer, config)
    with torch.no_grad():
        wanted = layer(values)
        assert torch.allclose(packed(values), wanted, atol=1e-5, rtol=1e-5)
        if library is not None:
            simulated = packed(values)
            packed.multiply = BitProduct(library, packed)
            assert packed(values).equal(simulated)


def test_a_table_of_words_has_two_values():
    table = BinaryEmbedding(20, 12)
    values = table(torch.arange(20))
    assert len(values.detach().abs().round(decimals=6).unique()) == 1
    other = PackedEmbedding(20, 12)
    other.packed, other.weight_scale = pack(weight_signs(table.weight)), table.weight.detach().abs().mean()
    assert torch.allclose(other(torch.arange(20)), values, atol=1e-6)


def calibrated(model, *batch, **named):
    quantizers = [module for module in model.modules() if isinstance(module, ElasticQuantizer)]
    for on in (True, False):
        for quantizer in quantizers:
            quantizer.calibrates = on
        if on:
            with torch.no_grad():
                model(*batch, **named)
    return quantizers


def test_every_product_of_the_encoder_sees_few_bits():
    model = BinaryBertForSequenceClassification(config_of()).eval()
    ids = torch.randint(0, 60, (3, 9))
    quantizers = calibrated(model, ids)
    assert len(quantizers) == 2 * (6 + 4)
    seen = []
    for quantizer in quantizers:
        quantizer.register_forward_hook(lambda module, _, found: seen.append((module.low, found[0].unique().tolist())))
    model(ids)
    assert len(seen) == len(quantizers)
    assert all(set(values) <= ({-1.0, 1.0} if low == -1 else {0.0, 1.0}) for low, values in seen)
    assert sum(low == 0 for low, _ in seen) == 2 * 2  # attention's shares and the FFN's activations


def test_padding_changes_nothing():
    model = BinaryBertForSequenceClassification(config_of()).eval()
    ids = torch.randint(1, 60, (3, 9))
    calibrated(model, ids)
    padded, mask = F.pad(ids, (0, 4)), F.pad(torch.ones_like(ids), (0, 4))
    assert torch.allclose(model(padded, attention_mask=mask).logits, model(ids).logits, atol=1e-5)


def test_without_packed_layers_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr("homodistil_hf.methods.binarization.bit_products.compiled", lambda: pytest.fail("asked for"))
    assert not multiply_bits(BinaryBertForSequenceClassification(config_of()))
