"""Pruning without gradients or labels: scores beside slow loops, exact budgets, limits, exports, refusals."""

import math

import numpy as np
import pytest
import torch
from filter_errors import output_error
from rows import each
from students import assert_same_logits, logits_of, make_batch, make_batches
from tiny_models import make_teacher, random_student, tiny_config
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification, BertModel

from homodistil_hf import GradientFreeSettings, export_student, prune_gradient_free, verify_export
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.methods.gradient_free import pruning
from homodistil_hf.methods.gradient_free.pruning import (
    check_samples,
    export_facts,
    filter_scores,
    filter_statistics,
    num_kept_filters,
    prune_filters,
)
from homodistil_hf.methods.gradient_free.representatives import convex_masking, gaussian_kernel, output_products
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForSequenceClassification
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of

TASKS = ("masked_lm", "sequence_classification", "token_classification", "question_answering")
NO_RESCALING = GradientFreeSettings(rescaling="none")


def widths(model):
    return [layer.intermediate_size for layer in widths_of(model.config).layers]


def macs_of(model):
    return encoder_macs(widths_of(model.config))


def make_model(task="sequence_classification", **config):
    """With an FFN that is wide beside its attention, so that there is something to drop."""
    return make_teacher(task, **{"intermediate_size": 256} | config)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def narrow():
    return make_teacher("sequence_classification")


def exactly(**settings):
    return GradientFreeSettings(dtype="float32", **settings)


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


@each("activation", ["mean", "norm"])
def test_statistics_are_those_of_stored_activations(narrow, activation):
    batches = make_batches()
    found, products = filter_statistics(to_student(narrow), batches, exactly(activation=activation))
    for index, stored in enumerate(slow_activations(narrow, batches)):
        expected = stored.mean(0) if activation == "mean" else stored.square().mean(0).sqrt()
        torch.testing.assert_close(found[f"ffn.{index}"], expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(products[f"ffn.{index}"].double(), stored.T @ stored, rtol=1e-4, atol=1e-4)


@each("activation", ["mean", "norm"])
def test_in_bfloat16_only_matrix_products_are_coarse(narrow, activation, monkeypatch):
    """Sums over tokens are not: those of a batch 250 times over are 250 times its own."""
    batch = make_batches()[0]
    repeated = {name: rows.repeat(250, 1) for name, rows in batch.items()}
    given = GradientFreeSettings(activation=activation, dtype="bfloat16")
    monkeypatch.setattr(pruning, "MAX_FITTED_TOKENS", 10**6)
    (found, products), (expected, single) = (
        filter_statistics(to_student(narrow), [rows], given) for rows in (repeated, batch)
    )
    exact, _ = filter_statistics(to_student(narrow), [batch], exactly(activation=activation))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(products[name], 250 * single[name], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(exact[name], values, rtol=0.05, atol=0.01)


@each("most", [1000, 40, 7])
def test_statistics_do_not_depend_on_how_rows_are_batched(narrow, most, monkeypatch):
    monkeypatch.setattr(pruning, "MAX_FITTED_TOKENS", most)
    batches = make_batches()
    whole = [{name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}]
    single = [{name: rows[index : index + 1] for name, rows in whole[0].items()} for index in range(12)]
    settings = exactly(activation="mean")
    expected = filter_statistics(to_student(narrow), whole, settings)
    for other in (batches, single):
        found = filter_statistics(to_student(narrow), other, settings)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_fit_sees_every_nth_token(narrow, monkeypatch):
    batches = make_batches()
    stored = slow_activations(narrow, batches)
    num_tokens = len(stored[0])
    monkeypatch.setattr(pruning, "MAX_FITTED_TOKENS", num_tokens // 3)
    _, products = filter_statistics(to_student(narrow), batches, exactly())
    stride = math.ceil(num_tokens / (num_tokens // 3))
    for index, rows in enumerate(stored):
        expected = rows[::stride].T @ rows[::stride]
        torch.testing.assert_close(products[f"ffn.{index}"].double(), expected, rtol=1e-4, atol=1e-4)


def test_a_mask_that_masks_nothing_is_as_good_as_none(narrow):
    tokens = {"input_ids": make_batch()["input_ids"]}
    settings = exactly(rescaling="none")
    expected, _ = filter_statistics(to_student(narrow), [tokens], settings)
    masked = tokens | {"attention_mask": torch.ones_like(tokens["input_ids"])}
    found, products = filter_statistics(to_student(narrow), [masked], settings)
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    assert products == {}


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
        ([{"input_ids": torch.ones(1, 8)}], r"^unlabeled\[0\] has input_ids=.*; expected a tensor of whole numbers"),
        (
            [{"input_ids": torch.ones(1, 8).long(), "attention_mask": np.ones((1, 8))}],
            "has attention_mask=array",
        ),
    ],
)
def test_samples_that_cannot_be_used_are_refused(narrow, unlabeled, message):
    with pytest.raises(ValueError, match=message):
        check_samples(unlabeled, narrow)


def test_rows_that_are_cut_in_front_of_the_ffn_are_refused():
    model = make_teacher("sequence_classification", chunk_size_feed_forward=4)
    with pytest.raises(ValueError, match="chunk_size_feed_forward=4 cuts rows in front of the FFN; set it to 0"):
        filter_statistics(to_student(model), make_batches(), GradientFreeSettings())


def test_r2d2_is_the_product_of_its_factors(model):
    student = to_student(model)
    activations, _ = filter_statistics(student, make_batches(), NO_RESCALING)
    scores = {
        ranking: filter_scores(student, activations, GradientFreeSettings(ranking=ranking))
        for ranking in ("r2", "d2", "r2d2")
    }
    for index, layer in enumerate(student.bert.encoder.layer):
        name = f"ffn.{index}"
        ranks = convex_masking(gaussian_kernel(layer.output.dense.weight.detach().T, sigma=1.0)).diagonal()
        torch.testing.assert_close(scores["r2"][name], ranks / ranks.sum())
        active = activations[name]
        torch.testing.assert_close(scores["d2"][name], (active / active.sum()).float())
        torch.testing.assert_close(scores["r2d2"][name], scores["r2"][name] * scores["d2"][name])


def test_passes_are_made_in_the_type_that_is_asked_for(model):
    found = {
        dtype: filter_statistics(to_student(model), make_batches(), GradientFreeSettings(dtype=dtype))[0]
        for dtype in ("float32", "bfloat16", "auto")
    }
    assert not torch.equal(found["bfloat16"]["ffn.0"], found["float32"]["ffn.0"])
    on_cpu = "bfloat16" if multiplies_bfloat16(torch.device("cpu")) else "float32"
    assert all(torch.equal(values, found[on_cpu][name]) for name, values in found["auto"].items())


def test_means_are_ranked_by_their_place_in_the_layers_range(model):
    student, settings = to_student(model), GradientFreeSettings(ranking="d2", activation="mean")
    activations, _ = filter_statistics(student, make_batches(), settings)
    for name, score in filter_scores(student, activations, settings).items():
        least, most = activations[name].min(), activations[name].max()
        torch.testing.assert_close(score, ((activations[name] - least) / (most - least)).float())


@pytest.mark.slow
@each("task", TASKS)
@each("settings", [None, NO_RESCALING])
def test_everything_kept_changes_nothing(task, settings):
    teacher = make_model(task)
    student = prune_gradient_free(teacher, make_batches(), macs=1.0, settings=settings)
    expected = to_student(teacher)
    assert student.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in student.state_dict().items())
    assert student.config.to_dict() == expected.config.to_dict()


@pytest.mark.slow
@each("task", TASKS)
@each("macs", [0.55, 0.7, 0.999])
def test_the_budget_is_met_to_the_last_filter(task, macs):
    teacher = make_model(task)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    student = prune_gradient_free(teacher, make_batches(), macs=macs)
    full, filter_macs = macs_of(teacher), 2 * teacher.config.hidden_size
    assert macs * full - filter_macs < macs_of(student) <= macs * full
    assert sum(widths(student)) == num_kept_filters(widths_of(teacher.config), macs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not student.training
    assert torch.isfinite(torch.cat([t.flatten() for t in student(**make_batches()[0]).to_tuple()])).all()


@each("num_dropped", range(0, 128, 7))
def test_every_number_of_filters_can_be_asked_for(num_dropped):
    plan = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))
    macs = (encoder_macs(plan) - num_dropped * 64) / encoder_macs(plan)
    assert num_kept_filters(plan, macs) == 128 - num_dropped


def test_the_best_filters_of_all_layers_are_kept_and_one_of_each_at_least(narrow):
    student = to_student(narrow)
    scores = {"ffn.0": torch.arange(64.0) + 100, "ffn.1": -torch.arange(64.0)}
    kept = {"ffn.0": torch.arange(64) >= 40, "ffn.1": torch.arange(64) == 0}
    weights = {
        index: (layer.intermediate.dense.weight, layer.output.dense.weight)
        for index, layer in enumerate(student.bert.encoder.layer)
    }
    macs = (macs_of(narrow) - 103 * 64) / macs_of(narrow)
    prune_filters(student, scores, macs)
    assert widths(student) == [24, 1]
    for index, layer in enumerate(student.bert.encoder.layer):
        rows, columns = weights[index]
        assert torch.equal(layer.intermediate.dense.weight, rows[kept[f"ffn.{index}"]])
        assert torch.equal(layer.output.dense.weight, columns[:, kept[f"ffn.{index}"]])


def test_ties_go_to_the_lower_layer_and_index(narrow):
    student = to_student(narrow)
    prune_filters(student, {f"ffn.{index}": torch.ones(64) for index in range(2)}, 0.8)
    num_kept = num_kept_filters(widths_of(narrow.config), 0.8)
    assert widths(student) == [min(64, num_kept - 1), max(1, num_kept - 64)]
    first = narrow.bert.encoder.layer[0].output.dense.weight
    assert torch.equal(student.bert.encoder.layer[0].output.dense.weight, first[:, : widths(student)[0]])


def test_without_rescaling_filters_are_zeroed(model):
    """Compacted = the model with the second matrix's dropped columns at zero."""
    student = prune_gradient_free(model, make_batches(), 0.7, settings=NO_RESCALING)
    reference = to_student(model)
    scores = filter_scores(reference, filter_statistics(reference, make_batches(), NO_RESCALING)[0], NO_RESCALING)
    ranked = torch.cat(list(scores.values()))
    threshold = ranked.sort(descending=True).values[sum(widths(student)) - 1]
    for index, layer in enumerate(reference.bert.encoder.layer):
        layer.output.dense.weight.data[:, scores[f"ffn.{index}"] < threshold] = 0
    batch = make_batches()[0]
    with torch.no_grad():
        assert_same_logits(student(**batch).logits, reference(**batch).logits)


def test_rescaling_brings_every_layers_output_nearer(model):
    batches, settings = make_batches(), GradientFreeSettings()
    reference = to_student(model)
    activations, sums = filter_statistics(reference, batches, settings)
    scores = filter_scores(reference, activations, settings)
    students = {name: to_student(model) for name in ("plain", "rescaled")}
    prune_filters(students["plain"], scores, 0.6)
    prune_filters(students["rescaled"], scores, 0.6, products=sums)
    for index, layer in enumerate(reference.bert.encoder.layer):
        full = layer.output.dense.weight.detach()
        first = students["plain"].bert.encoder.layer[index].intermediate.dense.weight
        kept = (layer.intermediate.dense.weight[:, None] == first).all(-1).any(1)
        products = output_products(sums[f"ffn.{index}"], full.T)
        errors = {}
        for name, student in students.items():
            scales = torch.zeros(full.shape[1], dtype=torch.float64)
            new = student.bert.encoder.layer[index].output.dense.weight.detach()
            scales[kept] = ((new * full[:, kept]).sum(0) / full[:, kept].square().sum(0)).double()
            torch.testing.assert_close(full[:, kept] * scales[kept].float(), new)
            errors[name] = float(output_error(products, scales))
        assert errors["rescaled"] < errors["plain"]


def test_uneven_students_can_be_pruned_further():
    plan = WidthPlan(24, (LayerWidths(3, 5, 160), LayerWidths(2, 8, 90)))
    student = random_student(HomoBertForSequenceClassification, plan)
    pruned = prune_gradient_free(student, [{"input_ids": torch.arange(40).view(4, 10)}], 0.8)
    assert 0.8 * macs_of(student) - 48 < macs_of(pruned) <= 0.8 * macs_of(student)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["standard", "compact"])
def test_exported_is_what_was_in_memory(model, format, tmp_path):
    batches = make_batches()
    student = prune_gradient_free(model, batches, 0.6)
    assert len(set(widths(student))) > 1
    facts = export_facts(GradientFreeSettings(), batches)
    folder = export_student(student, tmp_path / "out", format, teacher=model, facts=facts)
    assert verify_export(folder).problems == ()
    loaded = AutoModelForSequenceClassification.from_pretrained(folder)
    batch = batches[0]
    with torch.no_grad():
        assert_same_logits(loaded(**batch).logits, student(**batch).logits)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "2303.04185" in card
    assert "unlabeled text" in card
    assert "- num samples: 12" in card


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_keeps_the_same_filters():
    batches, settings = make_batches(), GradientFreeSettings(dtype="float32")
    models = (make_model().to(device) for device in ("cpu", "cuda"))
    here, there = (prune_gradient_free(model, batches, 0.8, settings=settings).cpu() for model in models)
    assert widths(there) == widths(here)
    assert_same_logits(logits_of(there), logits_of(here))


def test_labels_are_not_looked_at(model):
    plain, labelled = make_batches(), make_batches()
    for batch in labelled:
        batch["labels"] = torch.full((4,), 99)
    found, expected = (prune_gradient_free(model, batches, 0.7).state_dict() for batches in (labelled, plain))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@each(
    ("macs", "message"),
    [
        (0.2, r"macs=0.2 is out of reach: attention alone .* nearest valid: 0.43"),
        (0, r"macs=0 is no share .* expected a number in \(0, 1\]"),
        (1.5, "macs=1.5 is no share"),
        (float("nan"), "macs=nan is no share"),
        ("macs=0.5", "macs='macs=0.5' is no share"),
        (True, "macs=True is no share"),
    ],
)
def test_budgets_out_of_reach_are_refused(model, macs, message):
    with pytest.raises(ValueError, match=message):
        prune_gradient_free(model, [], macs)


def test_the_least_reachable_budget_can_be_met(model):
    with pytest.raises(ValueError, match="nearest valid: ") as raised:
        prune_gradient_free(model, make_batches(), 0.01)
    nearest = float(str(raised.value).rpartition(" ")[2])
    assert sum(widths(prune_gradient_free(model, make_batches(), nearest))) in (2, 3)
    with pytest.raises(ValueError, match="out of reach"):
        prune_gradient_free(model, make_batches(), nearest - 2e-4)


def test_models_that_cannot_be_pruned_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "albert"}')
    for model, message in (
        (BertModel(tiny_config()), "model class BertModel is not supported.*it has no head"),
        (str(tmp_path), "model=.* has model_type='albert'; supported: bert"),
        (5, "^model is a int; expected a folder"),
        ({}, "^model is a dict; expected a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            prune_gradient_free(model, make_batches())


def test_activations_that_are_not_finite_are_told(model):
    neurons = model.bert.encoder.layer[1].intermediate.dense
    neurons.weight.data[3] = 9e18  # finite, but no square of what it makes is
    with pytest.raises(FloatingPointError, match="activations of ffn.1 are not finite"):
        prune_gradient_free(model, make_batches(), 0.7)
    neurons.bias.data[3] = float("nan")
    with pytest.raises(
        ValueError, match="has 1 × NaN among the .* values of bert.encoder.layer.1.intermediate.dense.bias"
    ):
        prune_gradient_free(model, make_batches(), 0.7)


@each(
    ("values", "message"),
    [
        ({"ranking": "d2r2"}, "ranking='d2r2' is not one of r2d2, r2, d2"),
        ({"activation": "magnitude"}, "activation='magnitude' is not one of norm, mean"),
        ({"sigma": 0}, r"sigma=0 is outside \(0, inf\)"),
        ({"dtype": "float16"}, "dtype='float16' is not one of auto, bfloat16, float32"),
        ({"ranking": "d2", "sigma": 9.0}, "sigma=9.0 has no part in this run: ranking='d2' ranks by text alone"),
        ({"ranking": "r2", "activation": "mean"}, "activation='mean' has no part in this run: ranking='r2' ranks by"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        GradientFreeSettings(**values)


def test_a_model_by_name_is_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    student = prune_gradient_free(str(tmp_path), make_batches(), 0.7)
    expected = prune_gradient_free(model, make_batches(), 0.7)
    torch.testing.assert_close(logits_of(student), logits_of(expected))
