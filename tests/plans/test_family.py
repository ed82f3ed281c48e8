"""Members of a family only narrow, and have folders with safe and different names."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig

from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.plans.family import check_family, member_folder
from homodistil_hf.plans.resolve import nearest_within, resolve_plan, too_wide

BASE = BertConfig()
SMALL = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))


def check(*students: str) -> None:
    check_family(students, [resolve_plan(student, BASE) for student in students], widths_of(BASE))


@pytest.mark.parametrize(
    "students",
    [["macs=0.5", "macs=0.25", "macs=0.125"], ["homobert-base", "params=30M", "homobert-tiny"], ["macs=0.5"]],
)
def test_families_that_can_be_made(students):
    check(*students)


@pytest.mark.parametrize(
    ("students", "message"),
    [
        (["macs=1.0"], "^student 'macs=1.0' has the widths of the teacher before it; drop one of them$"),
        (["macs=0.5", "macs=0.50"], "^student 'macs=0.50' has the widths of 'macs=0.5' before it; drop one of them$"),
        (
            ["macs=0.25", "macs=0.5"],
            "^student 'macs=0.5' hidden_size=576 is wider than that of 'macs=0.25' before it, 432",
        ),
        (
            ["macs=0.25", "macs=0.2"],
            "head_dim=56 is wider than .*, 36 in layer 0; .* list them from wide to narrow, or",
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
    limit = nearest_within(first, SMALL)
    assert too_wide(limit, SMALL) is None
    try:
        check_family(["a", "b"], [limit, second], WidthPlan.uniform(33, 2, LayerWidths(4, 8, 64)))
    except ValueError as error:
        named = re.search(r"nearest valid plan: (.*)$", str(error))
        assert (named is None) == (second == limit)
        if named:
            assert too_wide(WidthPlan.from_dict(json.loads(named[1]), 2), limit) is None
    else:
        assert too_wide(second, limit) is None


@pytest.mark.parametrize(
    ("student", "name"),
    [
        (" macs=0.25,num_attention_heads=8 ", "2-macs-0.25-num_attention_heads-8"),
        ("homobert-tiny", "2-homobert-tiny"),
        ("/plans/My plan é.json", "2-My-plan"),
        ("../..", "2-student"),
        ('{"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}', "2-16-2x8-32"),
        ('{"hidden_size": 16, "layers": []}', "2-widths-a6d0653d"),
        ("x" * 90, "2-" + "x" * 60),
    ],
)
def test_folders_have_safe_names(student, name):
    assert member_folder(2, student) == name
