"""From a float model to bits and to their packed form."""

import pytest
import torch
from rows import each
from students import sliced
from tiny_models import UNEVEN, make_teacher
from transformers import BertForSequenceClassification

from homodistil_hf.methods.binarization.binarizing import calibrate, to_binary, to_packed
from homodistil_hf.methods.binarization.bit_products import multiply_bits
from homodistil_hf.models.architectures.modeling_binarybert import ElasticQuantizer
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of


def classifier():
    torch.manual_seed(0)
    return BertForSequenceClassification(make_teacher().config).eval()


def batch(model):
    ids = torch.randint(1, model.config.vocab_size, (4, 12))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.slow
@each("bits", [1, 2, 8])
@each("plan", [None, UNEVEN])
def test_packed_models_answer_as_simulated_ones(bits, plan):
    teacher = to_student(classifier())
    if plan is not None:
        sliced(teacher, plan)
    model = to_binary(teacher, activation_bits=bits).eval()
    rows = batch(model)
    calibrate(model, rows)
    packed = to_packed(model)
    ffn_sizes = [layer.intermediate.dense.out_features for layer in packed.bert.encoder.layer]
    assert ffn_sizes == [layer.intermediate_size for layer in widths_of(teacher.config).layers]
    with torch.no_grad():
        wanted, found = model(**rows).logits, packed(**rows).logits
        assert torch.allclose(found, wanted, atol=1e-5)
        if multiply_bits(packed):
            assert packed(**rows).logits.equal(found)


def test_bits_are_multiplied_on_a_cpu_alone():
    model = to_binary(classifier(), activation_bits=1)
    calibrate(model, batch(model))
    layer = to_packed(model).bert.encoder.layer[0].intermediate.dense
    layer.multiply = lambda *_: pytest.fail("asked for addresses of another device")
    assert layer.to("meta")(torch.empty(2, layer.in_features, device="meta")).shape == (2, layer.out_features)


def test_the_float_weights_behind_the_bits_are_the_models():
    model = classifier()
    binary = to_binary(model, activation_bits=8)
    own = dict(binary.named_parameters())
    assert all(own[name].equal(tensor) for name, tensor in to_student(model).named_parameters())


@each(("place", "units"), [("intermediate.dense", "FFN neurons"), ("attention.self.value", "channels of heads")])
def test_padding_is_not_brought_to_life(place, units):
    model = classifier()
    with torch.no_grad():
        model.bert.encoder.layer[0].get_submodule(place).weight[3:5] = 0
    with pytest.raises(ValueError, match=f"has 2 {units} that are padding"):
        to_binary(model, activation_bits=1)


def test_padded_heads_of_an_export_are_refused():
    student = to_student(classifier())
    # the stock class has two heads in both layers
    sliced(student, WidthPlan(16, (LayerWidths(1, 8, 16), LayerWidths(2, 8, 16))))
    with pytest.raises(ValueError, match="has 8 channels of heads that are padding"):
        to_binary(to_stock(student), activation_bits=1)


def test_scales_stay_positive_and_learn_as_fast_as_weights():
    """A scale of shares is thousands of times smaller than a step of Adam."""
    quantizer = ElasticQuantizer(8, is_signed=False, is_elastic=True)
    values = torch.rand(64, 16) / 300
    quantizer.calibrate(values)
    before = float(quantizer.scale)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=1e-2)
    for _ in range(100):
        codes, scale = quantizer(values)
        (codes * scale - 9).square().sum().backward()  # far away: all steps go one way
        optimizer.step()
        optimizer.zero_grad()
    assert 2 * before < float(quantizer.scale) < 6 * before  # with steps of α itself: 5,000 times


@each("dropout", [0.0, 0.25])
def test_dropout_is_what_was_asked_for_whatever_the_teacher_had(dropout):
    student = to_binary(classifier(), activation_bits=1, dropout=dropout)
    assert {module.p for module in student.modules() if isinstance(module, torch.nn.Dropout)} == {dropout}


def test_fewer_bits_start_without_the_thresholds_that_others_have_learnt():
    """x_q = α · q((x − β) / α) has the least squared error where β is 0, whatever α is."""
    values = torch.randn(4096, generator=torch.Generator().manual_seed(0)).abs()
    fresh, used = (ElasticQuantizer(1, is_signed=False, is_elastic=True) for _ in range(2))
    used.offset.data.fill_(-0.4)
    errors = []
    for quantizer in (fresh, used):
        quantizer.calibrate(values)
        codes, scale = quantizer(values)
        errors.append(float((codes * scale - values).square().sum() / values.square().sum()))
    assert errors[1] == errors[0] < 0.3
