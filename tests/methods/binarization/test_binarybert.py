"""Layers of bits: their values, gradients and packed form, and the product of bits."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from torch.nn import functional as F

from homodistil_hf.methods.binarization.binarizing import to_packed
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
    weight_scale,
    weight_signs,
)
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForSequenceClassification
from homodistil_hf.models.conversion import to_stock

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


@each(("bits", "is_signed"), SETS)
def test_activations_are_of_their_set(bits, is_signed):
    quantizer = ElasticQuantizer(bits, is_signed=is_signed, is_elastic=True)
    values = torch.randn(50, 40) * 3
    quantizer.calibrate(values)
    codes, _ = quantizer(values)
    assert set(codes.detach().round(decimals=5).unique().tolist()) <= set(map(float, SETS[bits, is_signed]))
    assert len(codes.unique()) > 1


@each(("bits", "is_signed"), SETS)
def test_scales_start_where_the_squared_error_is_least(bits, is_signed):
    quantizer = ElasticQuantizer(bits, is_signed=is_signed, is_elastic=True)
    torch.manual_seed(0)
    values = 2 * torch.randn(300, 400) if is_signed else torch.randn(300, 400).mul(2).softmax(1)  # attention's shares
    quantizer.calibrate(values)

    def error(scale):
        return (scale * quantizer.quantized(values / scale) - values).square().mean().item()

    start = quantizer.scale.detach()
    assert all(error(start) <= error(start * factor) * 1.02 for factor in (0.5, 0.8, 1.25, 2.0))


@each("num_columns", [384, 768, 400])
def test_scales_start_from_all_columns(num_columns):
    """Of more values than are looked at, whatever divides their number of columns."""
    torch.manual_seed(0)
    values = torch.randn(65536 * 3 // num_columns, num_columns)
    values[:, torch.arange(num_columns) % 3 > 0] *= 10
    quantizer = ElasticQuantizer(1, is_signed=True, is_elastic=True)
    quantizer.calibrate(values)
    assert quantizer.scale.item() == pytest.approx(values.abs().mean().item(), rel=0.02)


@each(("bits", "is_signed"), SETS)
@each("threshold", [0.0, 0.3])
def test_gradients_are_those_of_the_smooth_surrogate(bits, is_signed, threshold):
    """Straight through: α · (c + constant) with c the clipped value and the constant what rounding adds to it.

    In α · Sign(x − β), of the values {−1, 1}, the sign is no function of α, so α's gradient is Sign(x − β).
    """
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
        inside = moved[0], at[1] if quantizer.is_sign else moved[1], moved[2]
        return moved[1] * (clipped(*inside) + rounding) * weights

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


@each("bits", [1, 2, 32])
def test_under_autocast_answers_have_its_type_and_gradients_are_near(bits):
    layer, values = BinaryLinear(64, 8, config_of(activation_bits=bits)), torch.randn(50, 64)
    if bits < 32:
        layer.quantizer.calibrate(values)
    upstream, found = torch.randn(50, 8), []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = layer(values)
        assert out.dtype == (torch.bfloat16 if enabled else torch.float32)
        (out.float() * upstream).sum().backward()
        found.append({name: one.grad.clone() for name, one in layer.named_parameters()})
    for name, exact in found[0].items():
        assert float((found[1][name] - exact).norm() / exact.norm()) < 3e-2, name


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


def test_the_scale_of_a_large_matrix_is_its_mean_size():
    weight = torch.randn(30_000, 384)
    assert float(weight_scale(weight)) == pytest.approx(float(weight.double().abs().mean()), rel=1e-6)
    assert weight_scale(weight.half()).dtype == torch.float32


def packed_like(layer, config):
    """The same layer with bits."""
    other = PackedLinear(layer.in_features, layer.out_features, config, is_signed=layer.quantizer.low < 0)
    other.packed = pack(weight_signs(layer.weight))
    other.weight_scale = weight_scale(layer.weight)
    other.load_state_dict(
        layer.state_dict() | {"packed": other.packed, "weight_scale": other.weight_scale}, strict=False
    )
    return other


@pytest.mark.slow
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
    torch.manual_seed(seed)
    config = config_of(activation_bits=bits)
    layer = BinaryLinear(inputs, outputs, config, is_signed=is_signed)
    values = torch.randn(2, rows, inputs)
    layer.quantizer.calibrate(values)
    packed = packed_like(layer, config)
    with torch.no_grad():
        wanted = layer(values)
        assert torch.allclose(packed(values), wanted, atol=1e-5, rtol=1e-5)
        if compiled() is not None:
            simulated = packed(values)
            packed.multiply = BitProduct(packed)
            assert packed(values).equal(simulated)


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def wide_layers(bits, *, is_signed, dtype=torch.float32):
    """A packed layer of 3072 inputs, once multiplying bits where they can be, values, and the float layer's answer."""
    torch.manual_seed(0)
    config = config_of(activation_bits=bits)
    layer = BinaryLinear(3072, 20, config, is_signed=is_signed)
    values = torch.randn(2, 5, 3072).abs() if not is_signed else torch.randn(2, 5, 3072)
    layer.quantizer.calibrate(values)
    packed, bitwise = (packed_like(layer, config).to(dtype) for _ in range(2))
    if compiled() is not None:
        bitwise.multiply = BitProduct(bitwise)
    with torch.no_grad():
        return packed, bitwise, values.to(dtype), layer(values)


@pytest.mark.slow
@each("dtype", DTYPES)
@each(("bits", "is_signed"), [(1, True), (2, False), (8, True), (8, False)])
def test_products_stay_in_the_range_of_their_type(bits, is_signed, dtype):
    """Of 8 bits, 3072 whole numbers sum up to 783,360, which float16 hasn't."""
    packed, bitwise, values, wanted = wide_layers(bits, is_signed=is_signed, dtype=dtype)
    with torch.no_grad():
        for layer in (packed, bitwise):
            found = layer(values)
            assert found.dtype == dtype
            assert float((found.double() - wanted).norm() / wanted.norm()) < 6e-2


@each(("bits", "is_signed"), [(1, True), (1, False), (4, True), (8, False)])
def test_nan_is_an_answer_of_its_row(bits, is_signed):
    packed, bitwise, values, wanted = wide_layers(bits, is_signed=is_signed)
    values[0, 1, 7], values[1, 2, -1] = math.nan, math.nan
    values[1, 4, 3], values[1, 4, 4] = math.inf, -math.inf  # these have a code
    with torch.no_grad():
        found = packed(values)
        assert found.isnan().all(-1).nonzero().tolist() == found.isnan().any(-1).nonzero().tolist() == [[0, 1], [1, 2]]
        assert torch.equal(bitwise(values).nan_to_num(9e9), found.nan_to_num(9e9))
        assert torch.equal(found[0, 2:], wanted[0, 2:])


@each("shape", [(0, 5), (2, 0), (0,), ()])
def test_no_rows_and_single_ones_have_answers(shape):
    packed, bitwise, values, _ = wide_layers(2, is_signed=True)
    values = values[0, 0].expand(*shape, -1)
    with torch.no_grad():
        assert bitwise(values).shape == (*shape, 20)
        assert bitwise(values).equal(packed(values))


@pytest.mark.slow
@each("dtype", DTYPES[:3])
def test_models_of_any_type_multiply_bits_and_can_be_copied(dtype):
    model = BinaryBertForSequenceClassification(config_of(activation_bits=8)).eval()
    ids = torch.randint(1, 60, (3, 9))
    mask = torch.ones_like(ids).index_fill(1, torch.tensor([7, 8]), 0)
    calibrated(model, ids)
    packed = to_packed(model)
    with torch.no_grad():
        wanted = packed(ids, attention_mask=mask).logits
        packed = packed.to(dtype)
        found = [packed(ids, attention_mask=mask).logits]
        if multiply_bits(packed):
            found += [other(ids, attention_mask=mask).logits for other in copies(packed)]
    for logits in found:
        assert logits.dtype == dtype
        assert float((logits.float() - wanted).norm() / wanted.norm()) < 0.2
    assert all(logits.equal(found[1]) for logits in found[2:])


def copies(model):
    others = [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    assert all(other.bert.encoder.layer[0].output.dense.multiply is not None for other in others)
    return others


def test_inputs_of_zeros_stay_zeros_in_half_precision():
    """Their α is 1e-8, which is 0 in float16."""
    quantizer = ElasticQuantizer(8, is_signed=True, is_elastic=True)
    quantizer.calibrate(torch.zeros(4, 4))
    with torch.no_grad():
        codes, scale = quantizer.half()(torch.zeros(4, 4, dtype=torch.float16))
    assert (codes * scale).equal(torch.zeros(4, 4, dtype=torch.float16))


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


@pytest.mark.slow
@each("bits", [1, 2])
@each(("two_sets", "threshold"), [(True, 0.0), (True, -0.7), (False, 0.0), (False, -0.7)])
def test_padding_changes_nothing(bits, two_sets, threshold):
    model = BinaryBertForSequenceClassification(config_of(activation_bits=bits, two_sets=two_sets)).eval()
    ids = torch.randint(1, 60, (3, 9))
    calibrated(model, ids)
    for layer in model.bert.encoder.layer:  # β / α: a share of 0 becomes 1
        layer.attention.self.share_bits.offset.data.fill_(threshold)
    padded, mask = F.pad(ids, (0, 4)), F.pad(torch.ones_like(ids), (0, 4))
    assert torch.allclose(model(padded, attention_mask=mask).logits, model(ids).logits, atol=1e-5)


def test_with_float_activations_only_weights_lose_bits():
    """As a float model whose matrices have two values each, packed or not; there is nothing to multiply."""
    model = BinaryBertForSequenceClassification(config_of(activation_bits=32)).eval()
    ids = torch.randint(1, 60, (3, 9))
    stock = to_stock(HomoBertForSequenceClassification(config_of()))
    stock.load_state_dict(model.state_dict())
    for name, parameter in stock.named_parameters():
        if (name.startswith("bert.encoder") and parameter.dim() == 2) or "word_embeddings" in name:
            signs = torch.where(parameter >= parameter.mean(), 1.0, -1.0)
            parameter.data = parameter.abs().mean() * signs
    with torch.no_grad():
        wanted = stock.eval()(ids).logits
        packed = to_packed(model)
        assert not multiply_bits(packed)
        for one in (model, packed):
            assert torch.allclose(one(ids).logits, wanted, atol=1e-5)


def test_without_packed_layers_there_are_no_bits_to_multiply():
    assert not multiply_bits(BinaryBertForSequenceClassification(config_of()))
