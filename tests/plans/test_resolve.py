import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rows import each
from transformers import BertConfig, ElectraConfig, ModernBertConfig

from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.plans.resolve import (
    PRESETS,
    check_family,
    check_plan,
    member_folder,
    nearest_within,
    resolve_plan,
    too_wide,
)

BASE = BertConfig()
SMALL = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, vocab_size=100)
UNIFORM = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 8, "intermediate_size": 96}
LAYER = {"num_attention_heads": 4, "head_dim": 8, "intermediate_size": 96}
UNEVEN = {"hidden_size": 32, "layers": [LAYER, {"num_attention_heads": 2, "head_dim": 6, "intermediate_size": 200}]}


def nearest_plan(message: str) -> dict:
    return json.loads(message.split("nearest valid plan: ")[1])


# What a student may be called


def test_presets_fit_bert_base_and_need_no_padding():
    for preset, plan in PRESETS.items():
        assert resolve_plan(preset, BASE) == plan == plan.padded()
        assert len(plan.layers) == 12
    assert {name: tuple(plan.to_dict().values()) for name, plan in PRESETS.items()} == {
        "homobert-base": (576, 12, 48, 2304),
        "homobert-small": (256, 8, 32, 1024),
        "homobert-xsmall": (240, 12, 20, 960),
        "homobert-tiny": (224, 8, 28, 896),
    }


@each("share", [0.25, ".25", "25%", "25 %", "1/4", "2/8", " 1 / 4 "])
def test_a_bare_share_is_one_of_macs(share):
    assert resolve_plan(share, BASE) == resolve_plan("macs=0.25", BASE)


@pytest.mark.parametrize("values", [UNIFORM, UNEVEN], ids=["uniform", "per layer"])
def test_a_plan_is_the_same_as_dict_text_and_file(values, tmp_path):
    files = [tmp_path / name for name in ("plan.json", "widths", "a=b.json")]
    for file in files:
        file.write_text(json.dumps(values), encoding="utf-8")
    expected = WidthPlan.from_dict(values, num_hidden_layers=2)
    for student in (values, json.dumps(values), "\n " + json.dumps(values, indent=2), *map(str, files)):
        assert resolve_plan(student, SMALL) == expected


def test_budgets_and_short_plans_are_understood():
    plan = resolve_plan("macs=0.25", SMALL)
    assert encoder_macs(plan) / encoder_macs(widths_of(SMALL)) == pytest.approx(0.25, rel=0.03)
    assert resolve_plan("params=14M", BASE) == PRESETS["homobert-tiny"]
    assert resolve_plan("macs=0.25", BASE, multiple=64).hidden_size % 64 == 0
    assert resolve_plan("32-4x8-96", SMALL).to_dict() == UNIFORM | {"head_dim": 8}
    assert resolve_plan(widths_of(SMALL).to_dict(), SMALL) == widths_of(SMALL)


@each(
    ("student", "message"),
    [
        ("homobert-tny", "^student='homobert-tny' is unknown; nearest valid: 'homobert-tiny'; a student is a preset"),
        ("", "student='' is unknown; a student is a preset"),
        ("missing.json", "student='missing.json' is unknown; a student is a preset"),
        ("budget=3", "limits no known cost; expected one of params=14M, "),
        ("macs=2", "out of this teacher's reach; nearest valid: from 'macs="),
        *((share, r"student='macs=1\.5' is out of this teacher's reach") for share in (1.5, "150%", "3/2")),
        ("32-4x8", "is unknown; a student is a preset"),
        ("9999-4x8-96", "student hidden_size=9999 .*; nearest valid plan: "),
        ("3x32-2x16-96", "num_hidden_layers=3"),
        ("0x32-2x16-96", "num_hidden_layers=0"),
        ("{", "is no valid JSON .*; a student is a preset"),
        ('{"a":' * 100_000, "is no valid JSON .*recursion"),
        ("{}", "student plan has no key but lacks hidden_size"),
        (3, "student='macs=3' is out of this teacher's reach"),
        (["homobert-tiny"], r"student plan is \['homobert-tiny'\]"),
    ],
)
def test_what_is_no_student_is_refused(student, message):
    with pytest.raises(ValueError, match=message):
        resolve_plan(student, SMALL)


@each("content", [b"", b"not json", b"\xff\xfe\x00", b"[1, 2]", b'"homobert-tiny"', b"3"])
def test_a_file_that_holds_no_plan_is_refused(content, tmp_path):
    file = tmp_path / "plan.json"
    file.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"is no valid JSON|is no readable JSON file|student plan is .*; expected e.g."
    ):
        resolve_plan(str(file), SMALL)


# What a teacher allows


def test_a_preset_that_does_not_fit_names_a_plan_that_does():
    six_layers = BertConfig(hidden_size=384, num_hidden_layers=6, intermediate_size=1536)
    with pytest.raises(ValueError, match="student has 12 layers, its teacher's 6; nearest valid plan: {") as error:
        resolve_plan("homobert-tiny", six_layers)
    assert resolve_plan(nearest_plan(str(error.value)), six_layers).hidden_size == 224
    with pytest.raises(ValueError, match="student hidden_size=576 is wider than its teacher's 512; nearest valid"):
        resolve_plan("homobert-base", BertConfig(hidden_size=512, num_attention_heads=8))


@each(
    ("changes", "message", "nearest"),
    [
        (
            {"hidden_size": 72, "num_attention_heads": 4, "head_dim": 16},
            "hidden_size=72 is wider than its teacher's 64",
            64,
        ),
        (
            {"num_attention_heads": 8, "head_dim": 4},
            "num_attention_heads=8 is wider than its teacher's 4 in layer 0",
            32,
        ),
        ({"num_attention_heads": 1, "head_dim": 32}, "head_dim=32 is wider than its teacher's 16 in layer 0", 32),
        ({"intermediate_size": 257}, "intermediate_size=257 is wider than its teacher's 256 in layer 0", 32),
        ({"num_attention_heads": 4, "head_dim": 9}, "hidden_size=32 cannot be split into at least 4 heads of at", 32),
        ({"hidden_size": 10**9}, "hidden_size=1000000000 is wider than its teacher's 64", 64),
    ],
)
def test_impossible_widths_name_the_nearest_plan(changes, message, nearest):
    with pytest.raises(ValueError, match=f"student {message}.*; nearest valid plan: {{") as error:
        resolve_plan(UNIFORM | changes, SMALL)
    plan = resolve_plan(nearest_plan(str(error.value)), SMALL)
    assert plan.hidden_size == nearest


def test_the_layer_that_is_too_wide_is_named():
    values = {"hidden_size": 32, "layers": [LAYER, LAYER | {"intermediate_size": 300}]}
    with pytest.raises(ValueError, match="intermediate_size=300 is wider than its teacher's 256 in layer 1") as error:
        resolve_plan(values, SMALL)
    assert nearest_plan(str(error.value))["layers"] == [LAYER, LAYER | {"intermediate_size": 256}]


def test_each_layer_is_held_against_the_teachers_own():
    teacher = WidthPlan(32, (LayerWidths(4, 8, 96), LayerWidths(2, 8, 200)))
    check_plan(teacher, teacher)
    swapped = WidthPlan(32, teacher.layers[::-1])
    with pytest.raises(ValueError, match="intermediate_size=200 is wider than its teacher's 96 in layer 0"):
        check_plan(swapped, teacher)
    with pytest.raises(ValueError, match="student has 3 layers, its teacher's 2; nearest valid plan: {"):
        check_plan(WidthPlan.uniform(32, 3, LayerWidths(2, 8, 96)), teacher)
    # fewer layers are no wider than the narrowest of the teacher's, as any may stay
    check_plan(WidthPlan.uniform(32, 1, LayerWidths(2, 8, 96)), teacher)
    with pytest.raises(ValueError, match="intermediate_size=97 is wider than its teacher's 96 in layer 0") as error:
        check_plan(WidthPlan.uniform(32, 1, LayerWidths(2, 8, 97)), teacher)
    assert nearest_plan(str(error.value))["num_hidden_layers"] == 1


@each(
    "student",
    [
        "1x32-2x16-96",
        " 1x32-2x16-96 ",
        {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 96, "num_hidden_layers": 1},
        {"hidden_size": 32, "layers": [{"num_attention_heads": 2, "head_dim": 16, "intermediate_size": 96}]},
    ],
)
def test_fewer_layers_than_the_teachers_are_a_plan(student):
    assert resolve_plan(student, SMALL) == WidthPlan.uniform(32, 1, LayerWidths(2, 16, 96))


def test_fewer_layers_of_rotary_positions_have_one_head_size():
    config = ModernBertConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96)
    layers = [{"num_attention_heads": 2, "head_dim": size, "intermediate_size": 64} for size in (16, 8)]
    with pytest.raises(ValueError, match="head_dim=8 and 16 among layers of any kind"):
        resolve_plan({"hidden_size": 64, "layers": layers}, config)


def test_only_the_last_of_a_family_may_have_fewer_layers():
    plans = [resolve_plan(student, SMALL) for student in ("48-4x12-128", "1x32-4x8-96", "1x16-2x8-48")]
    check_family(["a", "b"], plans[:2], widths_of(SMALL))
    with pytest.raises(
        ValueError, match="student 'b' has 1 layers, its teacher has 2; .* only the last one may have fewer"
    ):
        check_family(["a", "b", "c"], plans, widths_of(SMALL))
    more = [plans[1], resolve_plan("32-4x8-96", SMALL)]
    with pytest.raises(ValueError, match="^student 'b' has 2 layers, that of 'a' before it, 1; each member is made"):
        check_family(["a", "b"], more, widths_of(SMALL))


widths = st.one_of(st.integers(1, 80), st.integers(1, 10**12))
layers = st.fixed_dictionaries(dict.fromkeys(LAYER, widths))
well_formed = st.one_of(
    st.fixed_dictionaries({"hidden_size": widths, **dict.fromkeys(LAYER, widths)}),
    st.fixed_dictionaries({"hidden_size": widths, "layers": st.lists(layers, min_size=1, max_size=4)}),
)


def resolved_or_refused(student: object) -> WidthPlan | str:
    try:
        return resolve_plan(student, SMALL)
    except ValueError as error:
        return str(error)


@pytest.mark.slow
@given(well_formed)
@settings(deadline=None, max_examples=200)
def test_a_plan_fits_or_its_error_names_one_that_does(values):
    outcome = resolved_or_refused(values)
    if isinstance(outcome, WidthPlan):
        check_plan(outcome, widths_of(SMALL))
    else:
        check_plan(resolve_plan(nearest_plan(outcome), SMALL), widths_of(SMALL))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*UNIFORM, "layers", "x"]) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)


budgets = st.from_regex(
    r"(params|macs) ?= ?[0-9.eEkMB+-]{0,8}(,(hidden_size|num_attention_heads|layers)=[0-9]{1,3}){0,2}", fullmatch=True
)


@pytest.mark.slow
@given(values | values.map(json.dumps) | st.text(max_size=40) | budgets)
@example("macs=0.25,layers=0")
@example("macs=0.25,hidden_size=0")
@example("macs=0.25,num_attention_heads=3,hidden_size=32")
@settings(deadline=None, max_examples=600)
def test_anything_is_a_plan_or_a_value_error(student):
    outcome = resolved_or_refused(student)
    if isinstance(outcome, WidthPlan):  # of a number, which is a share
        check_plan(outcome, widths_of(SMALL))
    else:
        assert re.match(r"student.*\w", outcome)


NARROW = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))


def check(*students: str) -> None:
    check_family(students, [resolve_plan(student, BASE) for student in students], widths_of(BASE))


@each(
    ("students", "message"),
    [
        (["macs=1.0"], "^student 'macs=1.0' has the widths of the teacher before it; drop one of them$"),
        (["macs=0.5", "macs=0.50"], "^student 'macs=0.50' has the widths of 'macs=0.5' before it; drop one of them$"),
        (
            ["macs=0.25", "macs=0.5"],
            "^student 'macs=0.5' hidden_size=672 is wider than that of 'macs=0.25' before it, 480",
        ),
        (
            ["macs=0.25", "400-8x50-400"],
            "head_dim=50 is wider than .*, 48 in layer 0; .* list them from wide to narrow, or",
        ),
    ],
)
def test_what_can_not_be_made_one_from_the_other(students, message):
    with pytest.raises(ValueError, match=message):
        check(*students)


def plans():
    layer = st.builds(LayerWidths, st.integers(1, 4), st.integers(1, 8), st.integers(1, 64))
    return st.builds(
        lambda size, layers: WidthPlan(size, tuple(layers)),
        st.integers(1, 32),
        st.lists(layer, min_size=2, max_size=2),
    )


@given(plans(), plans())
def test_the_plan_that_is_named_as_valid_is(first, second):
    limit = nearest_within(first, NARROW)
    assert too_wide(limit, NARROW) is None
    try:
        check_family(["a", "b"], [limit, second], WidthPlan.uniform(33, 2, LayerWidths(4, 8, 64)))
    except ValueError as error:
        named = re.search(r"nearest valid plan: (.*)$", str(error))
        assert (named is None) == (second == limit)
        if named:
            assert too_wide(WidthPlan.from_dict(json.loads(named[1]), 2), limit) is None
    else:
        assert too_wide(second, limit) is None


@each(
    ("student", "name"),
    [
        (" macs=0.25,num_attention_heads=8 ", "2-macs-0.25-num_attention_heads-8"),
        ("homobert-tiny", "2-homobert-tiny"),
        ("/plans/My plan é.json", "2-My-plan"),
        ("../..", "2-student"),
        ('{"hidden_size": 16, "num_attention_heads": 2}', "2-hidden_size-16-num_attention_heads-2"),
        ('{"hidden_size": 16, "layers": []}', "2-hidden_size-16-layers"),
        ("x" * 90, "2-" + "x" * 60),
    ],
)
def test_folders_have_safe_names(student, name):
    assert member_folder(2, student) == name


@each(("multiple", "share", "sizes"), [(128, 0.25, (128, 64)), (64, 0.06, (64, 32)), (8, 0.25, None)])
def test_words_of_electra_keep_their_proportion(multiple, share, sizes):
    plan = resolve_plan(f"macs={share}", ElectraConfig(), multiple=multiple)
    assert sizes is None or (plan.hidden_size, plan.embedding_size) == sizes
    assert plan.embedding_size >= plan.hidden_size // 4
