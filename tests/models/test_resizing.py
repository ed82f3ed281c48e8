"""A model without some of its layers: which stay, what it computes, what it is compared with."""

import torch
from rows import each
from students import UNEVEN, make_batch, make_student, masked, unlabelled

from homodistil_hf.models.resizing import keep_layers, matched_layers, spread_layers
from homodistil_hf.models.widths import chosen, widths_of
from homodistil_hf.pruning.compaction import compact


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
