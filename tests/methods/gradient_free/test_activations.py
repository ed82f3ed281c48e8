"""What FFN neurons do on text: sums of forward passes beside stored activations."""

import math

import pytest
import torch
from fake_device import DEVICE, fake_device
from rows import each
from students import make_batch, make_batches
from tiny_models import make_teacher
from torch.nn import functional as F

from homodistil_hf.methods.gradient_free.activations import check_samples, ffn_statistics
from homodistil_hf.models.conversion import to_student


@pytest.fixture
def model():
    return make_teacher("sequence_classification")


def slow_activations(model, batches):
    """`[layer][token]` → activations of the FFN, written out; padding is left out."""
    found = [[] for _ in model.bert.encoder.layer]
    for batch in batches:
        with torch.no_grad():
            outputs = model(**batch, output_hidden_states=True)
            states = outputs.hidden_states
            for index, layer in enumerate(model.bert.encoder.layer):
                mask = batch["attention_mask"]
                extended = (mask[:, None, None] == 0).float() * torch.finfo(torch.float32).min
                attended = layer.attention(states[index], attention_mask=extended)[0]
                active = F.gelu(layer.intermediate.dense(attended))
                found[index] += [active[row, token] for row, token in mask.nonzero().tolist()]
    return [torch.stack(rows).double() for rows in found]


@each("activation", ["mean", "magnitude", "norm"])
def test_statistics_are_those_of_stored_activations(model, activation):
    batches = make_batches()
    found = ffn_statistics(to_student(model), batches, average=activation, max_product_tokens=1000)
    for index, stored in enumerate(slow_activations(model, batches)):
        averages = {"mean": stored, "magnitude": stored.abs(), "norm": stored.square()}[activation].mean(0)
        expected = averages.sqrt() if activation == "norm" else averages
        torch.testing.assert_close(found.activations[f"ffn.{index}"], expected, rtol=1e-4, atol=1e-6)
        products = found.products[f"ffn.{index}"].double()
        torch.testing.assert_close(products, stored.T @ stored, rtol=1e-4, atol=1e-4)


@each("activation", ["mean", "norm"])
def test_in_bfloat16_only_matrix_products_are_coarse(model, activation):
    """Sums over tokens are not: those of a batch 250 times over are 250 times its own."""
    batch = make_batches()[0]
    repeated = {name: rows.repeat(250, 1) for name, rows in batch.items()}
    given = {"average": activation, "max_product_tokens": 10**6, "dtype": torch.bfloat16}
    found, expected = (ffn_statistics(to_student(model), [rows], **given) for rows in (repeated, batch))
    exact = ffn_statistics(to_student(model), [batch], average=activation)
    for name, values in expected.activations.items():
        torch.testing.assert_close(found.activations[name], values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.products[name], 250 * expected.products[name], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(exact.activations[name], values, rtol=0.05, atol=0.01)


@each("most", [1000, 40, 7])
def test_statistics_do_not_depend_on_how_rows_are_batched(model, most):
    batches = make_batches()
    whole = [{name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}]
    single = [{name: rows[index : index + 1] for name, rows in whole[0].items()} for index in range(12)]
    expected = ffn_statistics(to_student(model), whole, max_product_tokens=most)
    for other in (batches, single):
        found = ffn_statistics(to_student(model), other, max_product_tokens=most)
        for kind in ("activations", "products"):
            for name, values in getattr(expected, kind).items():
                torch.testing.assert_close(getattr(found, kind)[name], values, rtol=1e-4, atol=1e-5)


def test_the_fit_sees_every_nth_token(model):
    batches = make_batches()
    stored = slow_activations(model, batches)
    num_tokens = len(stored[0])
    found = ffn_statistics(to_student(model), batches, max_product_tokens=num_tokens // 3)
    stride = math.ceil(num_tokens / (num_tokens // 3))
    for index, rows in enumerate(stored):
        expected = rows[::stride].T @ rows[::stride]
        torch.testing.assert_close(found.products[f"ffn.{index}"].double(), expected, rtol=1e-4, atol=1e-4)


def test_a_mask_that_masks_nothing_is_as_good_as_none(model):
    tokens = {"input_ids": make_batch()["input_ids"]}
    expected = ffn_statistics(to_student(model), [tokens])
    masked = tokens | {"attention_mask": torch.ones_like(tokens["input_ids"])}
    found = ffn_statistics(to_student(model), [masked])
    assert all(torch.equal(found.activations[name], values) for name, values in expected.activations.items())
    assert found.products == {}


@each(
    ("unlabeled", "message"),
    [
        ([], "unlabeled has no token in 0 batches; expected text"),
        ("text.txt", "unlabeled='text.txt' is no sequence of batches"),
        ({"input_ids": torch.ones(1, 4)}, "is no sequence of batches"),
        (["text"], r"unlabeled\[0\] is 'text'; expected a dict with input_ids"),
        ([{"input_ids": [[2, 5, 3]]}], r"expected a dict with input_ids, a tensor \(batch, tokens\)"),
        ([{"input_ids": torch.zeros(1, 33).long()}], "33 tokens a row; nearest valid: 32, the model's positions"),
        ([{"input_ids": torch.full((1, 8), 96)}], "has the token id 96, but the model's vocab_size=96; tokenize"),
        ([{"input_ids": torch.ones(1, 8).long(), "attention_mask": torch.zeros(1, 8)}], "no token in 1 batches"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(model, unlabeled, message):
    with pytest.raises(ValueError, match=message):
        check_samples(unlabeled, model)


def test_rows_that_are_cut_in_front_of_the_ffn_are_refused():
    model = make_teacher("sequence_classification", chunk_size_feed_forward=4)
    with pytest.raises(ValueError, match="chunk_size_feed_forward=4 cuts rows in front of the FFN; set it to 0"):
        ffn_statistics(to_student(model), make_batches())


def test_a_batch_is_read_back_once_and_added_up_in_float64_by_the_host(model):
    student, batches = to_student(model).to(DEVICE), make_batches(2)
    with fake_device(has_float64=False) as waits:
        found = ffn_statistics(student, batches, max_product_tokens=1000)
    copies = len(batches[0]) + 1  # what the model reads, and which tokens are no padding
    assert waits.count("aten::_to_copy") == len(batches) * (copies + 1)
    assert {(values.dtype, values.device.type) for values in found.activations.values()} == {(torch.float64, "cpu")}
    assert {values.device for values in found.products.values()} == {DEVICE}
