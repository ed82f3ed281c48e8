import pytest
import torch
from rows import each
from torch import nn

from homodistil_hf.distillation.projections import Projections
from homodistil_hf.models.architectures.architecture import PROJECTIONS
from homodistil_hf.models.architectures.bert import BERT
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig
from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel
from homodistil_hf.models.resizing import write_plan
from homodistil_hf.models.units import (
    Group,
    Slice,
    UnitMap,
    encoder_groups,
    kept_indices,
    sums_along,
)
from homodistil_hf.models.widths import LayerWidths, WidthPlan

# Every width is another number, so a dimension's size tells what it is made of.
PLAN = WidthPlan(22, (LayerWidths(3, 5, 40), LayerWidths(2, 7, 37)))
TEACHER_SIZE = 26
GROUP_OF_SIZE = {22: ["hidden"], 40: ["ffn.0"], 37: ["ffn.1"]}
HEADS_OF_SIZE = {15: (0, 5), 14: (1, 7)}
CLASSES = sorted({head.student for head in BERT.heads}, key=lambda found: found.__name__)


def make_model(student_class: type[LayerwiseModel], **settings: object) -> LayerwiseModel:
    config = HomoBertConfig(
        vocab_size=61, max_position_embeddings=24, num_hidden_layers=2, num_labels=3, softmax_head_dim=9, **settings
    )
    write_plan(config, PLAN)
    model = student_class(config)
    model.add_module(PROJECTIONS, Projections(22, TEACHER_SIZE, num_hidden_layers=2))
    return model


Told = tuple[str, str, int, tuple[int, ...] | None]


def expected_slices(model: nn.Module) -> set[Told]:
    """Group, parameter, dimension and map of every dimension of every parameter, told by its size alone."""
    expected = set()
    for name, parameter in model.named_parameters():
        for dim, size in enumerate(parameter.shape):
            expected |= {(group, name, dim, None) for group in GROUP_OF_SIZE.get(size, ())}
            if size in HEADS_OF_SIZE:
                layer, head_dim = HEADS_OF_SIZE[size]
                kind = "query_key" if ".query." in name or ".key." in name else "value_output"
                expected |= {
                    (f"head.{layer}", name, dim, tuple(index // head_dim for index in range(size))),
                    (f"{kind}.{layer}", name, dim, None),
                }
    return expected


def as_told(piece: Slice) -> tuple[str, int, tuple[int, ...] | None]:
    units = piece.units
    return piece.parameter, piece.dim, None if units is None else tuple(units.unit_of_index.tolist())


@each("tied", [True, False])
@each("student_class", CLASSES)
def test_every_dimension_belongs_to_the_group_of_its_width(student_class, tied):
    model = make_model(student_class, tie_word_embeddings=tied)
    groups = encoder_groups(model)
    slices = [(name, *as_told(piece)) for name, group in groups.items() for piece in group.slices]
    assert len(slices) == len(set(slices))
    assert set(slices) == expected_slices(model)


def test_groups_come_layer_by_layer_with_their_sizes():
    groups = encoder_groups(make_model(CLASSES[0]))
    assert [(group.name, group.num_units) for group in groups.values()] == [
        ("hidden", 22),
        ("head.0", 3),
        ("query_key.0", 15),
        ("value_output.0", 15),
        ("ffn.0", 40),
        ("head.1", 2),
        ("query_key.1", 14),
        ("value_output.1", 14),
        ("ffn.1", 37),
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


# Sums and indices of slices


@pytest.mark.parametrize(("shape", "dim"), [((6,), 0), ((6, 4), 0), ((4, 6), 1)])
def test_sums_over_all_but_one_dimension_are_those_of_a_loop(shape, dim):
    values = torch.randn(shape, dtype=torch.float64)
    sums = sums_along(values, dim)
    assert sums.dtype == torch.float32
    expected = [values.select(dim, index).sum() for index in range(shape[dim])]
    torch.testing.assert_close(sums.double(), torch.stack(expected), rtol=1e-6, atol=1e-6)
    # 1001 is no bfloat16 number
    assert sums_along(torch.ones(1001, 2, dtype=torch.bfloat16), 1).tolist() == [1001.0] * 2


def test_an_index_is_kept_where_all_its_groups_agree():
    groups = {
        "hidden": Group("hidden", 3, (Slice("query", 1), *(Slice("dense", dim) for dim in (0, 1)))),
        "head.0": Group("head.0", 2, (Slice("query", 0, UnitMap(torch.tensor([0, 0, 1, 1]))),)),
        "query_key.0": Group("query_key.0", 4, (Slice("query", 0),)),
        "ffn.0": Group("ffn.0", 2, (Slice("ffn", 0),)),
    }
    masks = {
        "hidden": torch.tensor([True, False, True]),
        "head.0": torch.tensor([False, True]),
        "query_key.0": torch.tensor([True, False, True, False]),
        "ffn.0": torch.tensor([True, True]),
    }
    units, indices = kept_indices(groups, masks)
    assert {name: kept.tolist() for name, kept in units.items()} == {
        "hidden": [0, 2],
        "head.0": [1],
        "query_key.0": [0, 2],
    }
    kept = {name: {dim: places.tolist() for dim, places in dims.items()} for name, dims in indices.items()}
    assert kept == {"query": {0: [2], 1: [0, 2]}, "dense": {0: [0, 2], 1: [0, 2]}}
    assert indices["dense"][0] is indices["query"][1]  # one tensor for all places of a group
