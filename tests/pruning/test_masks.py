import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from students import FULL, UNEVEN, UNIFORM, kept_plan, random_scores

from homodistil_hf.models.units import Group
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.masks import choose_masks, full_masks, mask_digest, scheduled_plan
from homodistil_hf.pruning.schedule import PruningSchedule

QUICK = settings(max_examples=60, deadline=None)


def groups_of(plan: WidthPlan) -> dict[str, Group]:
    """Groups without slices: what choosing needs."""
    groups = [Group("hidden", plan.hidden_size, ())]
    for index, layer in enumerate(plan.layers):
        groups += [
            Group(f"head.{index}", layer.num_attention_heads, ()),
            Group(f"query_key.{index}", layer.attention_size, ()),
            Group(f"value_output.{index}", layer.attention_size, ()),
            Group(f"ffn.{index}", layer.intermediate_size, ()),
        ]
    return {group.name: group for group in groups}


# Which units are kept

ONE_LAYER = WidthPlan.uniform(4, 1, LayerWidths(3, 2, 5))


def scores_of(**values: list[float]) -> dict[str, torch.Tensor]:
    """Zeros, except where values are given."""
    scores = {name: torch.zeros(group.num_units) for name, group in groups_of(ONE_LAYER).items()}
    return scores | {f"{name}.0" if name != "hidden" else name: torch.tensor(value) for name, value in values.items()}


def chosen(scores: dict[str, torch.Tensor], plan: WidthPlan) -> dict[str, list[int]]:
    masks = choose_masks(scores, full_masks(groups_of(ONE_LAYER)), plan=plan)
    return {name.split(".")[0]: mask.nonzero().flatten().tolist() for name, mask in masks.items()}


def test_the_best_units_are_kept():
    scores = scores_of(
        hidden=[0.1, 0.4, 0.3, 0.2],
        head=[1.0, 3.0, 2.0],
        query_key=[9.0, 8.0, 1.0, 2.0, 4.0, 3.0],
        value_output=[9.0, 8.0, 2.0, 1.0, 3.0, 4.0],
        ffn=[5.0, 1.0, 4.0, 2.0, 3.0],
    )
    assert chosen(scores, WidthPlan.uniform(2, 1, LayerWidths(2, 1, 3))) == {
        "hidden": [1, 2],
        "head": [1, 2],
        "query_key": [3, 4],
        "value_output": [2, 5],
        "ffn": [0, 2, 4],
    }


@pytest.mark.parametrize("num_values", [1, 3])
def test_many_ties_go_to_the_lower_index(num_values):
    """Beyond a few units, only a stable sort does that."""
    full, kept = (WidthPlan.uniform(4, 1, LayerWidths(1, 1, size)) for size in (1000, 500))
    scores = {name: torch.zeros(group.num_units) for name, group in groups_of(full).items()}
    scores["ffn.0"] = torch.arange(1000.0) % num_values
    expected = sorted(range(1000), key=lambda unit: (-(unit % num_values), unit))[:500]
    mask = choose_masks(scores, full_masks(groups_of(full)), plan=kept)["ffn.0"]
    assert mask.nonzero().flatten().tolist() == sorted(expected)


def test_scores_that_are_no_numbers_count_least():
    nan, inf = math.nan, math.inf
    assert chosen(scores_of(ffn=[nan, 0.0, nan, -1.0, -1e30]), ONE_LAYER_WITH(3))["ffn"] == [1, 3, 4]
    assert chosen(scores_of(ffn=[nan, 0.0, inf, -inf, 1.0]), ONE_LAYER_WITH(3))["ffn"] == [1, 2, 4]
    assert chosen(scores_of(ffn=[nan] * 5), ONE_LAYER_WITH(3))["ffn"] == [0, 1, 2]


def ONE_LAYER_WITH(ffn: int) -> WidthPlan:
    return WidthPlan.uniform(4, 1, LayerWidths(3, 2, ffn))


@pytest.mark.parametrize("bad", [math.nan, -math.inf, -1e38])
def test_a_dropped_unit_never_returns_however_bad_the_others_are(bad):
    masks = full_masks(groups_of(ONE_LAYER)) | {"ffn.0": torch.tensor([False, True, True, True, False])}
    scores = scores_of(ffn=[1e30, bad, bad, bad, math.inf])
    assert choose_masks(scores, masks, plan=ONE_LAYER_WITH(2))["ffn.0"].tolist() == [False, True, True, False, False]
    assert choose_masks(scores, masks, plan=ONE_LAYER_WITH(4))["ffn.0"].tolist() == [False, True, True, True, False]


def test_a_dropped_head_is_dropped_in_its_channels():
    scores = scores_of(head=[3.0, 1.0, 2.0], query_key=[0.0, 0.0, 9.0, 9.0, 1.0, 1.0])
    kept = chosen(scores, WidthPlan.uniform(4, 1, LayerWidths(2, 2, 5)))
    assert (kept["head"], kept["query_key"], kept["value_output"]) == ([0, 2], [0, 1, 4, 5], [0, 1, 4, 5])


def test_choosing_changes_neither_scores_nor_masks():
    scores, masks = random_scores(groups_of(FULL)), full_masks(groups_of(FULL))
    scores["hidden"][3] = math.nan
    before = {name: values.clone() for name, values in scores.items()}
    choose_masks(scores, masks, plan=UNEVEN)
    assert all(bool(mask.all()) for mask in masks.values())
    assert all(torch.equal(scores[name].nan_to_num(), values.nan_to_num()) for name, values in before.items())


# How many units are kept


@each(
    ("progress", "expected"),
    [
        (0.0, (32, 4, 8, 64)),
        (0.001, (32, 4, 8, 64)),  # hidden 31.984, FFN 63.96
        (0.5, (24, 3, 7, 48)),  # head size 6½, FFN 44
        (0.51, (24, 3, 6, 40)),  # heads 2.98, head size 6.47, FFN 43.6
        (0.75, (24, 3, 6, 32)),  # hidden 20, heads 2½, head size 5¾, FFN 34
        (0.99, (16, 2, 5, 24)),  # hidden 16.16, heads 2.02, head size 5.03, FFN 24.4
        (1.0, (16, 2, 5, 24)),
    ],
)
def test_widths_are_the_schedule_rounded_to_the_nearest(progress, expected):
    plan = scheduled_plan(FULL, UNIFORM, progress=progress, kept=FULL, multiple=8)
    assert plan.is_uniform
    assert (plan.hidden_size, *dataclasses.astuple(plan.layers[0])) == expected


widths = st.integers(1, 64)
layer_widths = st.builds(LayerWidths, st.integers(1, 12), st.integers(1, 16), widths)


@st.composite
def plans(draw: st.DrawFn, num_layers: int) -> WidthPlan:
    return WidthPlan(draw(widths), tuple(draw(layer_widths) for _ in range(num_layers)))


def not_wider(plan: WidthPlan, than: WidthPlan) -> WidthPlan:
    layers = zip(plan.layers, than.layers, strict=True)
    return WidthPlan(
        min(plan.hidden_size, than.hidden_size),
        tuple(LayerWidths(*map(min, dataclasses.astuple(a), dataclasses.astuple(b))) for a, b in layers),
    )


def all_widths(plan: WidthPlan) -> list[int]:
    return [plan.hidden_size, *itertools.chain(*map(dataclasses.astuple, plan.layers))]


@QUICK
@given(plans(2), plans(2), st.lists(st.floats(0, 1), max_size=6), st.integers(1, 16))
def test_scheduled_widths_fall_to_the_target_and_reach_it(one, other, progresses, multiple):
    full, target = one, not_wider(other, one)
    present = full
    for progress in [*sorted(progresses), 1.0]:
        plan = scheduled_plan(full, target, progress=progress, kept=present, multiple=multiple)
        for new, old, least in zip(*map(all_widths, (plan, present, target)), strict=True):
            assert least <= new <= old
        for width, goal, top in (
            (plan.hidden_size, target.hidden_size, present.hidden_size),
            (
                plan.layers[0].intermediate_size,
                target.layers[0].intermediate_size,
                present.layers[0].intermediate_size,
            ),
        ):
            assert width % multiple == 0 or width in (goal, top)
        present = plan
    assert present == target


UNITS = (8, 1, 8, 8)  # hidden channels, heads, channels of a head where they are multiples, FFN neurons


@each(
    ("full", "target", "expected"),
    [
        (LayerWidths(12, 64, 64), LayerWidths(9, 40, 64), [(11, 56), (10, 48), (9, 40)]),
        (LayerWidths(12, 64, 64), LayerWidths(9, 41, 64), [(11, 58), (10, 49), (9, 41)]),  # no multiple of 8
        (LayerWidths(12, 60, 64), LayerWidths(9, 40, 64), [(11, 55), (10, 47), (9, 40)]),
    ],
)
def test_channels_of_heads_leave_in_multiples_where_the_plan_has_them(full, target, expected):
    whole, plan = (WidthPlan.uniform(64, 1, widths) for widths in (full, target))
    found = [
        scheduled_plan(whole, plan, progress=progress, kept=whole, multiple=8).layers[0]
        for progress in (0.27, 0.65, 1.0)
    ]
    assert [(layer.num_attention_heads, layer.head_dim) for layer in found] == expected


def check_no_cut_is_larger_than_asked(
    full: WidthPlan, target: WidthPlan, total_steps: int, interval: int, window: tuple[float, float]
) -> None:
    """No choice removes more of a kind than the cubic asks for since the choice before, and one unit of rounding."""
    schedule = PruningSchedule(window, interval, total_steps)
    kept, before = full, 0.0
    ends = zip(full.layers, target.layers, strict=True)
    steps = [1 if most.head_dim % 8 or least.head_dim % 8 else 8 for most, least in ends]
    for step in filter(schedule.is_due, range(total_steps + 1)):
        progress = schedule.progress(step)
        plan = scheduled_plan(full, target, progress=progress, kept=kept, multiple=8)
        units = [UNITS[0]]
        for channels in steps:
            units += [UNITS[1], channels, UNITS[3]]
        widths = zip(units, *map(all_widths, (full, target, kept, plan)), strict=True)
        for unit, most, least, old, new in widths:
            asked = (most - least) * (progress - before)
            assert old - new <= asked + unit + 1e-6, step
        layers = zip(full.layers, target.layers, kept.layers, plan.layers, steps, strict=True)
        for most, least, old, new, channels in layers:
            sizes = [attention_size_at(most, least, now) for now in (before, progress)]
            rounded = most.head_dim + channels * most.num_attention_heads
            assert old.attention_size - new.attention_size <= sizes[0] - sizes[1] + rounded
        kept, before = plan, progress
    assert kept == target


def attention_size_at(full: LayerWidths, target: LayerWidths, progress: float) -> float:
    heads, channels = (
        most - (most - least) * progress
        for most, least in zip(dataclasses.astuple(full)[:2], dataclasses.astuple(target)[:2], strict=True)
    )
    return float(heads * channels)


@pytest.mark.slow
@QUICK
@given(
    plans(2),
    plans(2),
    st.integers(1, 400),
    st.integers(1, 30),
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_no_choice_is_larger_than_the_schedule_asks(one, other, total_steps, interval, drawn):
    check_no_cut_is_larger_than_asked(one, not_wider(other, one), total_steps, interval, drawn)


@pytest.mark.slow
@QUICK
@given(
    plans(2), plans(2), st.lists(st.floats(0, 1), max_size=6), st.integers(1, 9), st.integers(0, 1000), st.booleans()
)
def test_masks_never_grow_and_end_at_the_plan(one, other, progresses, multiple, seed, has_ties):
    full, target = one, not_wider(other, one)
    groups = groups_of(full)
    masks = full_masks(groups)
    for index, progress in enumerate([*progresses, 1.0]):
        plan = scheduled_plan(full, target, progress=progress, kept=kept_plan(masks), multiple=multiple)
        scores = random_scores(groups, seed + index)
        if has_ties:
            scores = {name: (values * 3).round() for name, values in scores.items()}
        new = choose_masks(scores, masks, plan=plan)
        assert all(bool((masks[name] | ~mask).all()) for name, mask in new.items())  # a subset
        assert kept_plan(new) == plan
        for layer, widths in enumerate(plan.layers):
            heads = new[f"head.{layer}"]
            for name in (f"query_key.{layer}", f"value_output.{layer}"):
                assert new[name].view(len(heads), -1).sum(1).tolist() == (heads * widths.head_dim).tolist()
        for name in ("hidden", "ffn.0"):
            left, gone = scores[name][new[name]], scores[name][masks[name] & ~new[name]]
            assert len(gone) == 0 or float(left.min()) >= float(gone.max())
        masks = new
    assert kept_plan(masks) == target


# Comparing ranks


def test_the_digest_tells_masks_apart():
    masks = full_masks(groups_of(FULL))
    assert mask_digest(masks) == mask_digest(dict(reversed(masks.items())))
    assert len(mask_digest(masks)) == 32
    digests = {mask_digest(masks)}
    for name, mask in masks.items():
        for unit in (0, len(mask) - 1):
            changed = mask.clone()
            changed[unit] = False
            digests.add(mask_digest(masks | {name: changed}))
    assert len(digests) == 1 + 2 * len(masks)
    one, other = torch.tensor([True, False, True]), torch.tensor([True])
    assert mask_digest({"a": one[:2], "b": other}) != mask_digest({"a": other, "b": one[1:]})
