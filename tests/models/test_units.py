import pytest
import torch
from torch import nn

from homodistil_hf.distillation.projections import Projections
from homodistil_hf.models.families import FAMILIES
from homodistil_hf.models.families.bert import BERT
from homodistil_hf.models.families.family import PROJECTIONS
from homodistil_hf.models.families.modeling_homobert import HomoBertConfig, HomoBertLayerNorm, HomoBertPreTrainedModel
from homodistil_hf.models.resizing import write_plan
from homodistil_hf.models.units import Group, Slice, encoder_groups, kept_indices, modules_of, sums_along, units_of
from homodistil_hf.models.widths import LayerWidths, WidthPlan

# Every width is another number, so a dimension's size tells what it is made of.
PLAN = WidthPlan(22, (LayerWidths(3, 5, 40), LayerWidths(2, 7, 37)))
TEACHER_SIZE = 26
GROUP_OF_SIZE = {22: [("hidden", 1)], 40: [("ffn.0", 1)], 37: [("ffn.1", 1)]}
HEADS_OF_SIZE = {15: (0, 5), 14: (1, 7)}
CLASSES = sorted({head.student for head in BERT.heads}, key=lambda found: found.__name__)


def make_model(student_class: type[HomoBertPreTrainedModel], **settings: object) -> HomoBertPreTrainedModel:
    config = HomoBertConfig(
        vocab_size=61, max_position_embeddings=24, num_hidden_layers=2, num_labels=3, softmax_head_dim=9, **settings
    )
    write_plan(config, PLAN)
    model = student_class(config)
    model.add_module(PROJECTIONS, Projections(22, TEACHER_SIZE, num_hidden_layers=2))
    return model


def expected_slices(model: nn.Module) -> set[tuple[str, Slice]]:
    """Group and slice of every dimension of every parameter, told by its size alone."""
    expected = set()
    for name, parameter in model.named_parameters():
        for dim, size in enumerate(parameter.shape):
            expected |= {(group, Slice(name, dim, block)) for group, block in GROUP_OF_SIZE.get(size, ())}
            if size in HEADS_OF_SIZE:
                layer, head_dim = HEADS_OF_SIZE[size]
                kind = "query_key" if ".query." in name or ".key." in name else "value_output"
                expected |= {
                    (f"head.{layer}", Slice(name, dim, head_dim)),
                    (f"{kind}.{layer}", Slice(name, dim)),
                }
    return expected


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("student_class", CLASSES, ids=lambda found: found.__name__)
def test_every_dimension_belongs_to_the_group_of_its_width(student_class, tied):
    model = make_model(student_class, tie_word_embeddings=tied)
    groups = encoder_groups(model)
    slices = [(name, piece) for name, group in groups.items() for piece in group.slices]
    assert len(slices) == len(set(slices))
    assert set(slices) == expected_slices(model)


def test_groups_come_layer_by_layer_with_their_sizes_and_kinds():
    groups = encoder_groups(make_model(CLASSES[0]))
    assert [(group.name, group.kind, group.num_units) for group in groups.values()] == [
        ("hidden", "hidden", 22),
        ("head.0", "attention", 3),
        ("query_key.0", "attention", 15),
        ("value_output.0", "attention", 15),
        ("ffn.0", "ffn", 40),
        ("head.1", "attention", 2),
        ("query_key.1", "attention", 14),
        ("value_output.1", "attention", 14),
        ("ffn.1", "ffn", 37),
    ]
    assert list(groups) == [group.name for group in groups.values()]


def test_projections_are_optional():
    model = make_model(CLASSES[0])
    with_them = encoder_groups(model)["hidden"].slices
    del model.projections
    without = encoder_groups(model)["hidden"].slices
    assert {piece.parameter for piece in set(with_them) - set(without)} == {
        "projections.embedding.weight",
        "projections.hidden.0.weight",
        "projections.hidden.1.weight",
    }


def test_a_parameter_of_nobody_is_refused():
    model = make_model(CLASSES[0])
    model.bert.encoder.layer[1].adapter = nn.Linear(22, 4)
    names = r"bert.encoder.layer.1.adapter.weight, bert.encoder.layer.1.adapter.bias"
    with pytest.raises(ValueError, match=f"model parameters {names} are unknown to the bert table of units; remove"):
        encoder_groups(model)


def test_families_are_found_by_model_type():
    assert {name: family.model_type for name, family in FAMILIES.items()} == {"bert": "bert"}
    assert FAMILIES["bert"] is BERT


# Sums and indices of slices


@pytest.mark.parametrize(
    ("shape", "dim", "block"),
    [((6,), 0, 1), ((6,), 0, 3), ((6, 4), 0, 1), ((6, 4), 0, 2), ((4, 6), 1, 1), ((4, 6), 1, 3)],
)
def test_sums_over_units_are_those_of_a_loop(shape, dim, block):
    values = torch.randn(shape, dtype=torch.float64)
    sums = units_of(sums_along(values, dim), Slice("weight", dim, block))
    assert sums.dtype == torch.float32
    expected = [
        sum(values.select(dim, index).sum() for index in range(unit * block, (unit + 1) * block))
        for unit in range(shape[dim] // block)
    ]
    torch.testing.assert_close(sums.double(), torch.stack(expected), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "piece", "units"), [((1001, 2), Slice("weight", 1), 2), ((1001,), Slice("weight", 0, 1001), 1)]
)
def test_half_precision_is_summed_in_float32(shape, piece, units):
    """1001 is no bfloat16 number."""
    assert units_of(sums_along(torch.ones(shape, dtype=torch.bfloat16), piece.dim), piece).tolist() == [1001.0] * units


def test_an_index_is_kept_where_all_its_groups_agree():
    groups = {
        "hidden": Group("hidden", "hidden", 3, (Slice("query", 1), Slice("norm", 0))),
        "head.0": Group("head.0", "attention", 2, (Slice("query", 0, 2),)),
        "query_key.0": Group("query_key.0", "attention", 4, (Slice("query", 0),)),
        "ffn.0": Group("ffn.0", "ffn", 2, (Slice("ffn", 0),)),
    }
    masks = {
        "hidden": torch.tensor([True, False, True]),
        "head.0": torch.tensor([False, True]),
        "query_key.0": torch.tensor([True, False, True, False]),
        "ffn.0": torch.tensor([True, True]),
    }
    kept = kept_indices(groups, masks)
    assert {name: {dim: mask.tolist() for dim, mask in dims.items()} for name, dims in kept.items()} == {
        "query": {0: [False, False, True, False], 1: [True, False, True]},
        "norm": {0: [True, False, True]},
    }


def test_both_dimensions_of_a_square_matrix_are_cut():
    groups = {"hidden": Group("hidden", "hidden", 2, (Slice("dense", 0), Slice("dense", 1)))}
    kept = kept_indices(groups, {"hidden": torch.tensor([False, True])})
    assert {dim: mask.tolist() for dim, mask in kept["dense"].items()} == {0: [False, True], 1: [False, True]}


def test_modules_come_in_order_and_with_subclasses():
    model = make_model(CLASSES[0])
    norms = modules_of(model, nn.LayerNorm)
    assert norms == modules_of(model, HomoBertLayerNorm)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    assert [model.get_submodule(name) for name in names] == norms
    assert len(norms) >= 5
