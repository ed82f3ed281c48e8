"""The pruner strings score, mask, zero and compact together, and its state goes into a checkpoint and back."""

import copy
import dataclasses
import json
import logging
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from homodistil_hf.pruning.guard import DiscrepancyGuard
from tiny_models import make_teacher
from torch import nn

from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.units import kept_indices
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.masks import kept_plan
from homodistil_hf.pruning.pruner import Pruner, PruningSettings
from homodistil_hf.pruning.schedule import PruningSchedule

FULL = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))
TARGET = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))
UNEVEN = WidthPlan(24, (LayerWidths(4, 5, 24), LayerWidths(1, 5, 40)))
WINDOWS = dict.fromkeys(("hidden", "attention", "ffn"), (0.0, 0.5))
INPUT_IDS = torch.randint(5, 96, (4, 16), generator=torch.Generator().manual_seed(3))


def make_pruner(target: WidthPlan = TARGET, *, guard: DiscrepancyGuard | None = None, **settings: object) -> Pruner:
    return Pruner(to_student(make_teacher()), target, settings=PruningSettings(**settings), guard=guard)


def backward(pruner: Pruner, seed: int = 0) -> None:
    torch.manual_seed(seed)
    pruner.model.zero_grad()
    logits = pruner.model(INPUT_IDS).logits
    nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(5, 96, (64,))).backward()


def run(pruner: Pruner, num_steps: int = 20, *, interval_steps: int = 2, start_step: int = 0) -> list[WidthPlan]:
    """Training steps of AdamW with weight decay; the kept widths after each."""
    schedule = PruningSchedule(WINDOWS, interval_steps, 20)
    optimizer = torch.optim.AdamW(pruner.model.parameters(), lr=1e-3, weight_decay=0.1)
    plans = []
    for step in range(start_step + 1, start_step + num_steps + 1):
        backward(pruner, seed=step)
        pruner.score()
        optimizer.step()
        pruner.zero()
        pruner.step(step, schedule, optimizer=optimizer)
        plans.append(pruner.kept)
    return plans


def test_starts_with_everything_kept():
    pruner = make_pruner()
    assert pruner.full == pruner.present == pruner.kept == FULL
    assert pruner.kept_fractions() == {"hidden": 1.0, "attention": 1.0, "ffn": 1.0}
    assert not pruner.plan_reached


def total_widths(plan: WidthPlan) -> tuple[int, int, int]:
    sizes = [(layer.attention_size, layer.intermediate_size) for layer in plan.layers]
    attention, ffn = map(sum, zip(*sizes, strict=True))
    return plan.hidden_size, attention, ffn


@pytest.mark.parametrize("allocation", ["local", "global"])
@pytest.mark.parametrize("metric", ["sensitivity", "platon", "magnitude", "movement"])
def test_reaches_the_plan_exactly_and_only_ever_shrinks(metric, allocation):
    pruner = make_pruner(metric=metric, width_allocation=allocation)
    totals = [total_widths(plan) for plan in run(pruner)]
    for before, after in pairwise(totals):
        assert all(new <= old for old, new in zip(before, after, strict=True))
    assert pruner.plan_reached
    assert pruner.present == pruner.kept
    assert totals[-1] == (16, 32, 64)
    if allocation == "local":
        assert pruner.kept == TARGET


def test_reaches_a_plan_that_differs_from_layer_to_layer():
    pruner = make_pruner(UNEVEN)
    run(pruner)
    assert pruner.present == UNEVEN


def test_a_plan_of_full_width_prunes_nothing():
    pruner = make_pruner(FULL)
    assert pruner.plan_reached
    assert run(pruner) == [FULL] * 20
    assert pruner.num_compactions == 0


def test_nothing_happens_between_intervals():
    pruner = make_pruner(compaction_threshold=1.0, multiple=1)
    plans = run(pruner, 9, interval_steps=4)
    changes = [step for step, (old, new) in enumerate(pairwise([FULL, *plans]), 1) if old != new]
    assert changes == [4, 8]


def test_masks_never_grow_between_compactions():
    pruner = make_pruner(compaction_threshold=1.0)
    schedule = PruningSchedule(WINDOWS, 1, 20)
    for step in range(1, 10):
        before = pruner.masks
        backward(pruner, seed=step)
        pruner.score()
        pruner.step(step, schedule)
        assert not any((pruner.masks[name] & ~before[name]).any() for name in before)
    assert 0 < kept_plan(pruner.masks).hidden_size < 32


def test_dropped_slices_are_zero_in_weights_and_gradients():
    pruner = make_pruner(UNEVEN)
    backward(pruner)
    pruner.score()
    pruner.prune_to(UNEVEN)
    with torch.no_grad():
        for parameter in pruner.model.parameters():
            parameter.add_(1.0)
    pruner.zero()
    backward(pruner)
    pruner.score()
    parameters = dict(pruner.model.named_parameters())
    for name, dims in kept_indices(pruner.groups, pruner.masks).items():
        for dim, kept in dims.items():
            dropped = (~kept).nonzero().flatten()
            assert not parameters[name].index_select(dim, dropped).any(), name
            assert not parameters[name].grad.index_select(dim, dropped).any(), name


def test_gradient_scale_is_divided_out():
    plain, scaled = make_pruner(), make_pruner()
    for pruner, scale in ((plain, 1.0), (scaled, 1024.0)):
        backward(pruner)
        for parameter in pruner.model.parameters():
            parameter.grad *= scale
        pruner.score(gradient_scale=scale)
    for name, values in plain.unit_scores().items():
        torch.testing.assert_close(scaled.unit_scores()[name], values)


def test_kept_heads_name_the_same_heads_in_both_models():
    pruner = make_pruner(compaction_threshold=1.0)
    run(pruner, 7, interval_steps=1)
    dropped_first = [pruner.kept_heads(layer) for layer in range(2)]
    for teacher_heads, student_heads in dropped_first:
        assert len(teacher_heads) == 3
        assert torch.equal(teacher_heads, student_heads)
    pruner.compact()
    for layer, (teacher_heads, _) in enumerate(dropped_first):
        assert torch.equal(pruner.kept_heads(layer)[0], teacher_heads)
        assert pruner.kept_heads(layer)[1].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_compacts_when_enough_is_masked_and_at_the_plan():
    eager, lazy = make_pruner(compaction_threshold=0.0), make_pruner(compaction_threshold=1.0)
    run(eager)
    run(lazy)
    assert eager.num_compactions > lazy.num_compactions == 1
    assert eager.present == lazy.present == TARGET
    assert eager.status() == {
        "kept_fraction_hidden": 0.5,
        "kept_fraction_attention": 0.5,
        "kept_fraction_ffn": 0.5,
        "num_compactions": eager.num_compactions,
    }


def test_every_live_parameter_moves_after_a_compaction():
    pruner = make_pruner()
    optimizer = torch.optim.AdamW(pruner.model.parameters(), lr=1e-3, weight_decay=0.0)
    backward(pruner)
    pruner.score()
    optimizer.step()
    pruner.prune_to(TARGET)
    pruner.compact(optimizer)
    before = {name: parameter.detach().clone() for name, parameter in pruner.model.named_parameters()}
    backward(pruner)
    optimizer.step()
    parameters = dict(pruner.model.named_parameters())
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in parameters.values()}
    assert [name for name, parameter in parameters.items() if torch.equal(parameter, before[name])] == []


def never_calm() -> DiscrepancyGuard:
    return DiscrepancyGuard(ratio=1.0001, floor_nats=0.0, patience_steps=10**6, smoothing=0.0)


def test_the_plan_is_reached_by_the_deadline_whatever_the_guard_says():
    pruner = make_pruner(guard=never_calm())
    schedule = PruningSchedule(WINDOWS, 1, 20)
    for step in range(1, 20):
        pruner.guard.observe(2.0**step)
        backward(pruner, seed=step)
        pruner.score()
        pruner.step(step, schedule)
        # The first choice finds no reference yet; every later one is forbidden until 0.95·T.
        assert pruner.plan_reached == (step >= 19)
    assert pruner.kept == TARGET
    assert pruner.status()["num_guard_pauses"] == 1


def test_after_a_pause_the_widths_fall_little_by_little():
    pruner = make_pruner(guard=never_calm(), multiple=1)
    pruner.guard.patience_steps = 12
    schedule, hidden = PruningSchedule(dict.fromkeys(WINDOWS, (0.0, 0.5)), 1, 100), []
    for step in range(1, 60):
        pruner.guard.observe(2.0 if 3 <= step < 15 else 1.0)
        pruner.step(step, schedule)
        hidden.append(pruner.kept.hidden_size)
    falls = [before - after for before, after in pairwise(hidden)]
    assert hidden[2:14] == [hidden[1]] * 12
    assert max(falls[13:]) <= 2  # on the schedule itself, the cubic has gone on by a quarter meanwhile
    assert pruner.kept == TARGET


def copy_of(pruner: Pruner, **changes: object) -> Pruner:
    """Another pruner of another copy of the same student, through what a checkpoint would hold."""
    student = type(pruner.model)(copy.deepcopy(pruner.model.config))
    student.load_state_dict(pruner.model.state_dict())
    settings = dataclasses.replace(pruner.settings, **changes)
    guard = pruner.guard and never_calm()
    stations = {"full": pruner.full, "waypoints": pruner.waypoints}
    copied = Pruner(student, pruner.target, settings=settings, guard=guard, **stations)
    copied.load_state(json.loads(json.dumps(pruner.state_dict())), pruner.state_tensors())
    return copied


@pytest.mark.parametrize("metric", ["sensitivity", "platon", "movement"])
@pytest.mark.parametrize("threshold", [1.0, 0.1])
def test_state_comes_back_exactly(metric, threshold):
    pruner = make_pruner(metric=metric, compaction_threshold=threshold, guard=never_calm())
    pruner.guard.observe(0.5)
    run(pruner, 4, interval_steps=1)
    assert (pruner.num_compactions > 0) == (threshold < 1)
    assert pruner.kept != FULL
    copied = copy_of(pruner)
    assert copied.state_dict() == pruner.state_dict()
    tensors = copied.state_tensors()
    assert tensors.keys() == pruner.state_tensors().keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in pruner.state_tensors().items())
    for one in (pruner, copied):
        run(one, 3, interval_steps=1, start_step=4)
    assert pruner.masks.keys() == copied.masks.keys()
    assert all(torch.equal(pruner.masks[name], copied.masks[name]) for name in pruner.masks)


def test_state_of_another_run_is_refused():
    pruner = make_pruner()
    with pytest.raises(ValueError, match="importance_metric='platon' differs from the checkpoint's 'sensitivity'"):
        copy_of(pruner, metric="platon")
    other = make_pruner(UNEVEN)
    with pytest.raises(
        ValueError, match="student plan .*24.* differs from the checkpoint's .*16.*resume with the same"
    ):
        other.load_state(pruner.state_dict(), pruner.state_tensors())


def test_other_settings_are_taken_but_told(caplog):
    pruner = make_pruner()
    with caplog.at_level(logging.WARNING, "homodistil_hf"):
        copy_of(pruner)
        assert caplog.messages == []
        copy_of(pruner, multiple=4)
    (message,) = caplog.messages
    assert message == "resumed with multiple=4, the checkpoint has 8: the run will differ from an uninterrupted one"


def test_masks_of_other_widths_are_refused():
    pruner, smaller = make_pruner(), make_pruner()
    backward(smaller)
    smaller.score()
    smaller.prune_to(TARGET)
    smaller.compact()
    with pytest.raises(ValueError, match="masks of 9 groups don't fit the student's widths"):
        pruner.load_state(smaller.state_dict(), smaller.state_tensors())


def test_the_digest_tells_choices_apart_after_a_compaction():
    digests = []
    for seed in (0, 0, 1):
        pruner = make_pruner()
        backward(pruner, seed=seed)
        pruner.score()
        pruner.prune_to(TARGET)
        pruner.compact()
        digests.append(pruner.choices_digest)
        assert all(mask.all() for mask in pruner.masks.values())
    assert digests[0] == digests[1] != digests[2]


# Waypoints

HALF_WAY = WidthPlan.uniform(24, 2, LayerWidths(3, 8, 52))
NEARLY_THERE = WidthPlan(20, (LayerWidths(2, 8, 32), LayerWidths(3, 8, 33)))


def pruner_through(*waypoints: WidthPlan, guard: DiscrepancyGuard | None = None, **settings: object) -> Pruner:
    return Pruner(
        to_student(make_teacher()), TARGET, settings=PruningSettings(**settings), guard=guard, waypoints=waypoints
    )


def walk(pruner: Pruner, schedule: PruningSchedule, *, kl_at: Callable[[int], float] = float) -> dict[int, WidthPlan]:
    """Score once and step through a run of 40 steps; the kept widths after each."""
    backward(pruner)
    pruner.score()
    plans = {}
    for step in range(1, 41):
        if pruner.guard is not None:
            pruner.guard.observe(kl_at(step))
        pruner.step(step, schedule)
        plans[step] = pruner.kept
    return plans


def is_within(plan: WidthPlan, wider: WidthPlan) -> bool:
    widths = [(plan.hidden_size, wider.hidden_size)]
    for layer, wider_layer in zip(plan.layers, wider.layers, strict=True):
        widths += zip(dataclasses.astuple(layer), dataclasses.astuple(wider_layer), strict=True)
    return all(width <= limit for width, limit in widths)


@pytest.mark.parametrize("interval_steps", [1, 7])
@pytest.mark.parametrize("multiple", [1, 8])
def test_waypoints_are_passed_exactly(interval_steps, multiple):
    pruner = pruner_through(HALF_WAY, NEARLY_THERE, multiple=multiple)
    schedule = PruningSchedule(WINDOWS, interval_steps, 40, waypoint_steps=(5, 12), recovery_steps=2)
    plans = walk(pruner, schedule)
    assert [plans[step] for step in (5, 6, 7)] == [HALF_WAY] * 3
    assert [plans[step] for step in (12, 13, 14)] == [NEARLY_THERE] * 3
    assert plans[20] == TARGET
    assert all(is_within(after, before) for before, after in pairwise(plans.values()))
    if interval_steps == 1:
        assert plans[4] not in (FULL, HALF_WAY)
        assert plans[11] not in (HALF_WAY, NEARLY_THERE)


def test_a_waypoint_is_due_when_its_rest_is_over():
    pruner = pruner_through(HALF_WAY, NEARLY_THERE)
    schedule = PruningSchedule(WINDOWS, 1, 40, waypoint_steps=(5, 12), recovery_steps=2)
    due = {}
    for step in range(1, 41):
        pruner.step(step, schedule)
        if (index := pruner.waypoint_due(step)) is not None:
            due[step] = index, pruner.kept
    assert due == {7: (0, HALF_WAY), 14: (1, NEARLY_THERE)}


def test_a_guard_delays_waypoints_but_not_past_their_deadlines():
    pruner = pruner_through(HALF_WAY, NEARLY_THERE, guard=never_calm(), multiple=1)
    schedule = PruningSchedule(WINDOWS, 1, 40, waypoint_steps=(5, 12), recovery_steps=2)
    plans = walk(pruner, schedule, kl_at=lambda step: 2.0**step)
    assert [schedule.deadline_of_leg(leg) for leg in range(3)] == [32, 35, 38]
    assert plans[1] == plans[31] != HALF_WAY
    assert [plans[step] for step in (32, 34, 35, 37, 38)] == [HALF_WAY] * 2 + [NEARLY_THERE] * 2 + [TARGET]


def test_a_delayed_waypoint_still_has_its_whole_rest():
    pruner = pruner_through(HALF_WAY, guard=never_calm(), multiple=1)
    pruner.guard.patience_steps = 6
    schedule = PruningSchedule(WINDOWS, 1, 40, waypoint_steps=(5,), recovery_steps=4)
    plans = walk(pruner, schedule, kl_at=lambda step: 9.0 if 2 <= step < 20 else 1.0)
    assert plans[1] == plans[7] != plans[8]  # pruned once at step 1, held back from step 2 on
    reached = min(step for step, plan in plans.items() if plan == HALF_WAY)
    assert reached == 14  # as long after the pause as it lasted
    assert [plans[step] for step in range(reached, reached + 5)] == [HALF_WAY] * 5
    assert pruner.rests_until_step == reached + 4
    assert plans[40] == TARGET


def test_layers_share_out_the_totals_of_a_waypoint():
    pruner = pruner_through(HALF_WAY, width_allocation="global", multiple=1)
    pruner.model.bert.encoder.layer[0].output.dense.weight.data *= 2.0
    schedule = PruningSchedule(WINDOWS, 1, 40, waypoint_steps=(5,), recovery_steps=2)
    plans = walk(pruner, schedule)
    passed = plans[5]
    assert passed == plans[7] != HALF_WAY
    assert passed.hidden_size == HALF_WAY.hidden_size
    for name, total in (("num_attention_heads", 6), ("intermediate_size", 104)):
        assert sum(getattr(layer, name) for layer in passed.layers) == total
    assert passed.padded().hidden_size == 24
    assert all(is_within(after, before) for before, after in pairwise(plans.values()))
    assert sum(layer.intermediate_size for layer in plans[40].layers) == 64


def test_the_state_on_the_way_through_waypoints_comes_back():
    pruner = pruner_through(HALF_WAY, NEARLY_THERE, compaction_threshold=1.0)
    schedule = PruningSchedule(WINDOWS, 1, 40, waypoint_steps=(5, 12), recovery_steps=2)
    for step in range(1, 7):
        pruner.step(step, schedule)
    copied = copy_of(pruner)
    assert copied.state_dict() == pruner.state_dict()
    assert (copied.num_waypoints_reached, copied.rests_until_step) == (1, 7)
    for step in range(7, 41):
        assert copied.step(step, schedule) == pruner.step(step, schedule)
        assert (copied.kept, copied.waypoint_due(step)) == (pruner.kept, pruner.waypoint_due(step))
    assert copied.plan_reached


def test_other_waypoints_than_the_checkpoints_are_refused():
    pruner = pruner_through(HALF_WAY)
    with pytest.raises(ValueError, match=r"snapshots \[\] differ from the checkpoint's .*24.*; resume with those"):
        make_pruner().load_state(pruner.state_dict(), pruner.state_tensors())
