import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from transformers import BertConfig

from homodistil_hf.files.messages import nearest_valid, short_repr
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig
from homodistil_hf.models.widths import LayerWidths, WidthPlan, nearest_paddable, widths_of

UNIFORM = {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16, "intermediate_size": 128}
LAYER = {"num_attention_heads": 4, "head_dim": 16, "intermediate_size": 128}
UNEVEN = {"hidden_size": 64, "layers": [LAYER, {"num_attention_heads": 2, "head_dim": 12, "intermediate_size": 200}]}


def uneven_plan(hidden_size: int, *layers: tuple[int, int, int]) -> WidthPlan:
    return WidthPlan(hidden_size, tuple(LayerWidths(*layer) for layer in layers))


plans = st.builds(
    uneven_plan,
    st.integers(1, 96),
    *[st.tuples(st.integers(1, 16), st.integers(1, 24), st.integers(1, 200))] * 2,
)


def is_nowhere_wider(plan: WidthPlan, other: WidthPlan) -> bool:
    return plan.hidden_size <= other.hidden_size and all(
        layer.num_attention_heads <= limit.num_attention_heads
        and layer.head_dim <= limit.head_dim
        and layer.intermediate_size <= limit.intermediate_size
        for layer, limit in zip(plan.layers, other.layers, strict=True)
    )


# The two types and their JSON form


@pytest.mark.parametrize("values", [UNIFORM, UNEVEN])
def test_dict_form_is_a_round_trip(values):
    plan = WidthPlan.from_dict(values, num_hidden_layers=2)
    assert plan.to_dict() == values
    assert json.loads(plan.to_json()) == values
    assert len(plan.layers) == 2


def test_uniform_form_says_the_same_as_equal_layers():
    per_layer = WidthPlan.from_dict({"hidden_size": 64, "layers": [LAYER] * 3}, num_hidden_layers=3)
    assert per_layer == WidthPlan.from_dict(UNIFORM, num_hidden_layers=3)
    assert per_layer.is_uniform
    assert per_layer.to_dict() == UNIFORM
    assert not WidthPlan.from_dict(UNEVEN, num_hidden_layers=2).is_uniform
    without_head_dim = {key: value for key, value in UNIFORM.items() if key != "head_dim"}
    assert WidthPlan.from_dict(without_head_dim, num_hidden_layers=2).to_dict() == UNIFORM
    with pytest.raises(ValueError, match=r"layers=\(\) has no layer"):
        WidthPlan(64, ())


@given(plans)
@settings(deadline=None, max_examples=50)
def test_any_plan_survives_its_json(plan):
    assert WidthPlan.from_dict(json.loads(plan.to_json()), num_hidden_layers=2) == plan


BAD_PLANS = {
    "no object": (None, "student plan is None"),
    "empty": ({}, "has no key but lacks hidden_size, num_attention_heads, intermediate_size; a valid plan: {"),
    "unknown key": (UNIFORM | {"num_heads": 4}, "unknown key 'num_heads'; nearest valid: 'num_attention_heads'"),
    "missing key": ({"hidden_size": 64, "num_attention_heads": 4}, "lacks intermediate_size; a valid plan: {"),
    "both forms": (UNEVEN | {"head_dim": 16}, "student plan with layers has the unknown key 'head_dim'"),
    "indivisible": (
        {"hidden_size": 230, "num_attention_heads": 8, "intermediate_size": 900},
        "student hidden_size=230 is not divisible by num_attention_heads=8; nearest valid: 224, 232",
    ),
    "more heads than channels": (
        {"hidden_size": 6, "num_attention_heads": 8, "intermediate_size": 900},
        "student hidden_size=6 is not divisible by num_attention_heads=8; nearest valid: 8$",
    ),
    "bool": (UNIFORM | {"num_attention_heads": True}, "student num_attention_heads=True is no integer"),
    "float": (UNIFORM | {"hidden_size": 63.7}, "hidden_size=63.7 is no integer; .* such as 64"),
    "text": (UNIFORM | {"hidden_size": "64"}, "hidden_size='64' is no integer; expected a positive integer"),
    "zero": (UNIFORM | {"intermediate_size": 0}, "intermediate_size=0 is not positive; nearest valid: 1"),
    "negative": (UNIFORM | {"hidden_size": -64}, "hidden_size=-64 is not positive; nearest valid: 1"),
    "no layers": ({"hidden_size": 64, "layers": []}, r"layers=\[\]; expected a list of 2 JSON objects"),
    "layer is no object": (
        {"hidden_size": 64, "layers": [LAYER, 3]},
        r"layers=\[.*3\]; expected a list of 2",
    ),
    "layer lacks a key": (
        {"hidden_size": 64, "layers": [LAYER, {"head_dim": 8}]},
        r"layers\[1\] has head_dim but lacks",
    ),
    "bad value in a layer": (
        {"hidden_size": 64, "layers": [LAYER, LAYER | {"head_dim": -1}]},
        r"student layers\[1\] head_dim=-1 is not positive",
    ),
    "more layers than the teacher": (UNIFORM | {"num_hidden_layers": 3}, "num_hidden_layers=3, but its teacher has 2"),
    "no layer": (UNIFORM | {"num_hidden_layers": 0}, "num_hidden_layers=0 is not positive; nearest valid: 1"),
}


@each(("values", "message"), BAD_PLANS.values())
def test_wrong_forms_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        WidthPlan.from_dict(values, num_hidden_layers=2)


# Padding to stock BERT


@each(
    ("plan", "num_heads", "head_dim", "intermediate_size"),
    [
        (uneven_plan(64, (4, 16, 128), (2, 12, 200)), 4, 16, 200),  # heads of the first, FFN of the second layer
        (uneven_plan(64, (3, 16, 128), (2, 16, 128)), 4, 16, 128),  # 3 does not divide 64, the next that does is 4
        (uneven_plan(64, (3, 20, 128), (1, 1, 1)), None, None, None),  # 4 heads would leave 16 channels each
        (uneven_plan(64, (2, 20, 128), (1, 30, 1)), 2, 32, 128),  # room to spare goes to the head size
        (uneven_plan(64, (8, 8, 64), (8, 8, 64)), 8, 8, 64),  # already what stock BERT needs
        (uneven_plan(64, (1, 65, 64), (1, 1, 1)), None, None, None),  # wider than the hidden size
    ],
)
def test_padding_by_hand(plan, num_heads, head_dim, intermediate_size):
    if num_heads is None:
        with pytest.raises(ValueError, match=r"hidden_size=64 cannot be split into at least .* nearest valid plan: {"):
            plan.padded()
        return
    assert plan.padded() == WidthPlan.uniform(64, 2, LayerWidths(num_heads, head_dim, intermediate_size))


@pytest.mark.slow
@given(plans)
@settings(deadline=None, max_examples=200)
def test_padding_exists_exactly_where_a_divisor_leaves_room(plan):
    num_heads, head_dim = plan.widest.num_attention_heads, plan.widest.head_dim
    exists = any(n >= num_heads and n * d == plan.hidden_size for n in range(1, 97) for d in range(head_dim, 97))
    if not exists:
        with pytest.raises(ValueError, match="nearest valid plan"):
            plan.padded()
        return
    padded = plan.padded()
    assert padded.is_uniform
    assert padded.layers[0].attention_size == padded.hidden_size == plan.hidden_size
    assert is_nowhere_wider(plan, padded)
    assert padded.padded() == padded
    values = padded.to_dict()
    del values["head_dim"]
    BertConfig(**values, num_hidden_layers=len(padded.layers))  # raises where stock BERT could not be built


@pytest.mark.slow
@given(plans)
@settings(deadline=None, max_examples=200)
def test_the_nearest_paddable_plan_is_narrower_and_can_be_padded(plan):
    nearest = nearest_paddable(plan)
    assert is_nowhere_wider(nearest, plan)
    assert nearest.padded().hidden_size == nearest.hidden_size
    assert nearest_paddable(nearest) == nearest


def test_the_nearest_paddable_plan_gives_up_the_smaller_share():
    heads_fit_224 = uneven_plan(230, (8, 28, 900))
    assert nearest_paddable(heads_fit_224) == uneven_plan(224, (8, 28, 900))
    heads_too_wide = uneven_plan(230, (8, 64, 900))  # 5 × 46 uses all 230 channels; 8 × 64 fits no smaller size
    assert nearest_paddable(heads_too_wide) == uneven_plan(230, (5, 46, 900))


# A teacher's own widths


def test_the_widths_of_configurations():
    config = BertConfig(hidden_size=48, num_attention_heads=3, intermediate_size=100, num_hidden_layers=2)
    assert widths_of(config) == WidthPlan.uniform(48, 2, LayerWidths(3, 16, 100))
    layers = UNEVEN["layers"]
    config = HomoBertConfig(hidden_size=64, num_hidden_layers=2, per_layer_config=dict(enumerate(layers)))
    assert widths_of(config).to_dict() == UNEVEN
    widths = {"num_attention_heads": 4, "head_dim": 8, "intermediate_size": 96}
    config = HomoBertConfig(hidden_size=60, num_hidden_layers=2, **widths)
    assert widths_of(config) == WidthPlan.uniform(60, 2, LayerWidths(4, 8, 96))
    config = BertConfig(hidden_size=50, num_attention_heads=1, num_hidden_layers=1)
    config.num_attention_heads = 4
    with pytest.raises(ValueError, match=r"teacher hidden_size=50 is not divisible by num_attention_heads=4.* 48, 52"):
        widths_of(config)


# Texts for messages


def test_the_nearest_name_or_all_names_are_told():
    assert nearest_valid("hiden_sise", ["intermediate_size", "hidden_size"]) == "nearest valid: 'hidden_size'"
    assert nearest_valid("lr", ["start", "learning_rate"]) == "nearest valid: 'learning_rate'"
    assert nearest_valid(42, ["only"]) == "expected one of 'only'"
    assert nearest_valid("é", map(str, range(15))).endswith("'10', '11' and 3 more")


def test_shown_values_stay_short():
    assert short_repr({"a": 1}) == "{'a': 1}"
    assert len(short_repr("x" * 10_000)) < 100
    assert short_repr(10**5000) == "an integer of more than 40 digits"


def test_a_plan_of_fewer_layers_names_their_number_for_its_teacher():
    plan = WidthPlan.from_dict(UNIFORM | {"num_hidden_layers": 1}, num_hidden_layers=2)
    assert len(plan.layers) == 1
    assert plan.to_dict() == plan.to_dict(of_layers=1) == WidthPlan.from_dict(UNIFORM, 1).to_dict()
    assert plan.to_dict(of_layers=2) == plan.to_dict() | {"num_hidden_layers": 1}
    assert WidthPlan.from_dict(json.loads(plan.to_json(of_layers=2)), 2) == plan
    uneven = WidthPlan.from_dict(UNEVEN, 3)
    assert WidthPlan.from_dict(uneven.to_dict(of_layers=3), 3) == uneven
