"""Snapshots are read, named, put in order and led through by the schedule; what lies off the way is refused."""

import json
import re
from itertools import pairwise

import pytest
from homodistil_hf.pruning.waypoints import schedule_through
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig

from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, teacher_plan
from homodistil_hf.plans.presets import PRESETS
from homodistil_hf.plans.resolve import check_plan, resolve_plan
from homodistil_hf.plans.snapshots import resolve_snapshots
from homodistil_hf.pruning.masks import scheduled_plan
from homodistil_hf.pruning.schedule import PruningSchedule

BASE = BertConfig()
TINY = PRESETS["homobert-tiny"]
TEACHER = teacher_plan(BASE)


def plan_text(hidden_size: int = 512, heads: int = 8, head_dim: int = 48, ffn: int = 2048) -> str:
    widths = {"hidden_size": hidden_size, "num_attention_heads": heads, "head_dim": head_dim}
    return json.dumps(widths | {"intermediate_size": ffn})


def test_snapshots_are_sorted_from_wide_to_narrow():
    written = plan_text(504, heads=12, head_dim=40)
    family = resolve_snapshots(["params=30M", "homobert-base", written, "macs=0.9"], BASE, TINY)
    assert [snapshot.given for snapshot in family] == ["macs=0.9", "homobert-base", written, "params=30M"]
    assert [snapshot.plan for snapshot in family] == [resolve_plan(snapshot.given, BASE) for snapshot in family]
    costs = [encoder_macs(snapshot.plan) for snapshot in family]
    assert costs == sorted(costs, reverse=True)
    assert resolve_snapshots([], BASE, TINY) == ()


def test_plans_are_read_from_files_with_the_multiple_of_the_run(tmp_path):
    path = tmp_path / "My plan (2).json"
    path.write_text(plan_text())
    (snapshot,) = resolve_snapshots([str(path)], BASE, TINY)
    assert (snapshot.name, snapshot.plan) == ("My-plan-2", resolve_plan(plan_text(), BASE))
    (coarse,) = resolve_snapshots(["macs=0.25"], BASE, TINY, multiple=64)
    assert coarse.plan == resolve_plan("macs=0.25", BASE, multiple=64) != resolve_plan("macs=0.25", BASE)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("homobert-base", "homobert-base"),
        (" macs = 0.5 ", "macs-0.5"),
        ("params=30M", "params-30M"),
        (plan_text(), "hidden-512-heads-8x48-ffn-2048"),
    ],
)
def test_names(text, name):
    assert resolve_snapshots([text], BASE, TINY)[0].name == name


def test_names_of_uneven_plans_follow_from_their_widths():
    def uneven(ffn: int) -> str:
        layers = [{"num_attention_heads": 8, "head_dim": 32, "intermediate_size": ffn}] * 11
        last = {"num_attention_heads": 10, "head_dim": 32, "intermediate_size": 1024}
        return json.dumps({"hidden_size": 512, "layers": [*layers, last]})

    names = [resolve_snapshots([uneven(ffn)], BASE, TINY)[0].name for ffn in (2048, 2049, 2048)]
    assert names[0] == names[2] != names[1]
    assert all(re.fullmatch(r"widths-[0-9a-f]{8}", name) for name in names)


STEMS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40)


@settings(max_examples=15)
@given(st.lists(STEMS, min_size=1, max_size=3, unique=True))
def test_every_name_is_that_of_one_folder(tmp_path_factory, stems):
    folder = tmp_path_factory.mktemp("plans")
    files = [folder / f"{stem}.json" for stem in stems]
    for number, path in enumerate(files):
        path.write_text(plan_text(ffn=1000 + number))
    names = [snapshot.name for snapshot in resolve_snapshots(list(map(str, files)), BASE, TINY)]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name) and len(name) <= 64 for name in names)


def test_plans_of_one_name_are_numbered(tmp_path):
    paths = []
    for number, folder in enumerate("ab"):
        (tmp_path / folder).mkdir()
        paths.append(tmp_path / folder / "plan.json")
        paths[-1].write_text(plan_text(ffn=1500 - number))
    assert [s.name for s in resolve_snapshots(list(map(str, paths)), BASE, TINY)] == ["plan", "plan-2"]


@pytest.mark.parametrize(
    ("snapshots", "message"),
    [
        (["homobert-xsmall"], "snapshots 'homobert-xsmall' has head_dim=20, narrower than the student with 28; "),
        ([plan_text(ffn=800)], "snapshots '.*' has intermediate_size=800, narrower than the student with 896; "),
        (
            ["macs=0.75", plan_text(heads=8, head_dim=60)],
            "snapshots '.*' has head_dim=60, wider than snapshots 'macs=0.75' with 56; ",
        ),
        (["homobert-tiny"], "^snapshots 'homobert-tiny' has the widths of the student; drop one of them$"),
        (["macs=1.0"], "^snapshots 'macs=1.0' has the widths of the teacher; drop one of them$"),
        (["macs=0.5", "macs=0.50"], "snapshots 'macs=0.50' has the widths of snapshots 'macs=0.5'; drop one of them"),
        (["macs=2"], "^snapshots: student='macs=2' is out of this teacher's reach; nearest valid: "),
        ([plan_text(hidden_size=1024)], "^snapshots: student hidden_size=1024 is wider than its teacher's 768"),
        (["latency_ms=4"], "'latency_ms=4' is measured, and a resumed run would measure anew; .*homodistil plan"),
    ],
)
def test_what_lies_off_the_way_is_refused(snapshots, message):
    with pytest.raises(ValueError, match=message):
        resolve_snapshots(snapshots, BASE, TINY)


def test_a_width_of_one_layer_is_named_with_its_layer():
    layers = [{"num_attention_heads": 8, "head_dim": 32, "intermediate_size": 1024}] * 12
    layers[3] = layers[3] | {"intermediate_size": 400}
    with pytest.raises(ValueError, match="intermediate_size=400 in layer 3, narrower than the student with 896"):
        resolve_snapshots([json.dumps({"hidden_size": 512, "layers": layers})], BASE, TINY)


WIDTHS = st.builds(
    lambda hidden, heads, head_dim, ffn: WidthPlan.uniform(hidden, 2, LayerWidths(heads, head_dim, ffn)),
    st.integers(1, 64),
    st.integers(1, 8),
    st.integers(1, 16),
    st.integers(1, 128),
)
SMALL = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
SMALL_TEACHER = teacher_plan(SMALL)


@given(WIDTHS, st.lists(WIDTHS, min_size=1, max_size=2))
def test_a_family_only_narrows_and_what_is_named_as_valid_is(target, snapshots):
    try:
        check_plan(target, SMALL_TEACHER)
    except ValueError:
        return
    try:
        family = resolve_snapshots([plan.to_json() for plan in snapshots], SMALL, target)
    except ValueError as error:
        named = re.match(r"snapshots '.*narrower than the student .*nearest valid plan: (.*)$", str(error))
        # What is named is on the way, unless it is one of its ends.
        if named and (nearest := WidthPlan.from_dict(json.loads(named[1]), 2)) not in (target, SMALL_TEACHER):
            assert resolve_snapshots([named[1]], SMALL, target)[0].plan == nearest
        return
    for wider, plan in pairwise([SMALL_TEACHER, *(snapshot.plan for snapshot in family), target]):
        assert wider.hidden_size >= plan.hidden_size
        assert wider.layers[0].num_attention_heads >= plan.layers[0].num_attention_heads
        assert wider.layers[0].head_dim >= plan.layers[0].head_dim
        assert wider.layers[0].intermediate_size >= plan.layers[0].intermediate_size


# The schedule


def test_a_snapshot_comes_when_the_way_without_it_first_costs_no_more():
    windows = {"hidden": (0.0, 0.5), "attention": (0.1, 0.6), "ffn": (0.0, 0.7)}
    direct = PruningSchedule(windows, 10, 1000)
    family = resolve_snapshots(["macs=0.5", "macs=0.25"], BASE, TINY)
    schedule = schedule_through(direct, family, full=TEACHER, target=TINY, recovery_steps=0)

    def cost(step: int) -> int:
        progress = direct.progress(step)
        return encoder_macs(scheduled_plan(TEACHER, TINY, progress=progress, present=TEACHER, multiple=1))

    for snapshot, step in zip(family, schedule.waypoint_steps, strict=True):
        assert cost(step) <= encoder_macs(snapshot.plan) < cost(step - 1)


def test_without_snapshots_the_schedule_stays_as_it_is():
    direct = PruningSchedule({"hidden": (0.0, 0.5)}, 10, 1000)
    assert schedule_through(direct, [], full=TEACHER, target=TINY, recovery_steps=9) is direct
