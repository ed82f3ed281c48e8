"""Shallow students are their teacher without some layers, and cost what a narrow one does."""

import pytest
import torch
from rows import each
from students import UNEVEN, make_batch, make_student, masked, unlabelled

from homodistil_hf.methods.fewer_layers import matched_layers, shallow_plan, spread_layers
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.resizing import keep_layers
from homodistil_hf.models.widths import LayerWidths, WidthPlan, chosen, widths_of
from homodistil_hf.plans.budgets import TOLERANCE
from homodistil_hf.pruning.compaction import compact

BASE = WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072))


@each(
    ("num_kept", "num_layers", "expected"),
    [(6, 12, (0, 2, 4, 7, 9, 11)), (3, 6, (0, 2, 5)), (2, 6, (0, 5)), (1, 4, (0,)), (4, 4, (0, 1, 2, 3))],
)
def test_kept_layers_are_spread_from_the_first_to_the_last(num_kept, num_layers, expected):
    assert spread_layers(num_kept, num_layers) == expected


@each("num_layers", range(1, 25))
def test_no_layer_is_kept_twice(num_layers):
    for num_kept in range(1, num_layers + 1):
        layers = spread_layers(num_kept, num_layers)
        assert len(set(layers)) == num_kept
        assert list(layers) == sorted(layers)
        assert set(layers) <= set(range(num_layers))


@each("num_kept", [1, 3, 6, 12])
def test_depth_follows_the_encoder_macs(num_kept):
    assert shallow_plan(chosen(BASE, range(num_kept)), BASE) == spread_layers(num_kept, 12)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_depth_must_meet_the_macs_within_the_tolerance(sign):
    def plan(share: float) -> WidthPlan:
        # Encoder MACs are linear in the FFN size.
        return WidthPlan(768, (LayerWidths(12, 64, round(3072 * share)),) * 12)

    def share(deviation: float) -> float:
        return (encoder_macs(BASE) / 2 * (1 + deviation) - encoder_macs(plan(0.0))) / (2 * 768 * 12 * 3072)

    assert shallow_plan(plan(share(sign * (TOLERANCE - 2e-3))), BASE) == (0, 2, 4, 7, 9, 11)
    assert shallow_plan(plan(share(sign * (TOLERANCE + 2e-3))), BASE) is None


@torch.no_grad()
def test_a_shallow_model_is_the_deep_one_without_the_other_layers():
    deep, inputs = make_student(num_hidden_layers=3).eval(), unlabelled(make_batch())
    shallow = keep_layers(deep, (0, 2)).eval()
    embedded = deep.bert.embeddings(inputs["input_ids"])
    mask = torch.where(inputs["attention_mask"].bool(), 0.0, torch.finfo(torch.float32).min)[:, None, None, :]
    for index in (0, 2):
        embedded = deep.bert.encoder.layer[index](embedded, attention_mask=mask)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(shallow(**inputs).logits[real], deep.cls(embedded)[real], rtol=0, atol=1e-5)
    assert (shallow.config.num_hidden_layers, deep.config.num_hidden_layers) == (2, 3)
    assert len(deep.bert.encoder.layer) == 3


def test_weights_are_copies_and_stay_tied():
    deep = make_student()
    shallow = keep_layers(deep, (1,))
    with torch.no_grad():
        shallow.bert.embeddings.word_embeddings.weight.zero_()
    assert float(deep.bert.embeddings.word_embeddings.weight.detach().abs().max()) > 0
    assert shallow.cls.predictions.decoder.weight is shallow.bert.embeddings.word_embeddings.weight


def test_layers_of_other_widths_keep_them():
    deep = make_student()
    groups, masks = masked(deep, UNEVEN)
    compact(deep, groups, masks, plan=UNEVEN)
    shallow = keep_layers(deep, (1,))
    assert widths_of(shallow.config) == chosen(UNEVEN, (1,))
    states = shallow(**unlabelled(make_batch()), output_hidden_states=True).hidden_states
    assert len(states) == 2


def test_a_layer_is_matched_with_the_one_in_front_of_the_next_kept_layer():
    assert matched_layers((0, 1, 2, 4, 5), num_layers=6) == (0, 1, 3, 4, 5)
    assert matched_layers((0, 2), num_layers=4) == (1, 3)
    assert matched_layers((0,), num_layers=3) == (2,)
    assert matched_layers(range(4), num_layers=4) == (0, 1, 2, 3)
