import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homodistil_hf.schedule import (
    DiscrepancyGuard,
    PruningSchedule,
    kept_fraction,
    pruning_learning_rate,
    pruning_progress,
)

# Kept fractions


@pytest.mark.parametrize(
    ("step", "progress"),
    [
        (0, 0.0),
        (9, 0.0),
        (10, 0.0),
        (11, 1 - 0.95**3),
        (12, 1 - 0.729),
        (15, 1 - 27 / 64),
        (20, 1 - 1 / 8),
        (25, 1 - 1 / 64),
        (29, 1 - 0.05**3),
        (30, 1.0),
        (31, 1.0),
        (10**9, 1.0),
    ],
)
def test_progress_by_hand(step, progress):
    assert pruning_progress(step, 10, 30) == pytest.approx(progress, abs=1e-15)


@pytest.mark.parametrize(
    ("progress", "final_fraction", "expected"), [(0.0, 0.3, 1.0), (1.0, 0.3, 0.3), (0.875, 0.2, 0.3), (0.5, 1.0, 1.0)]
)
def test_kept_fraction_by_hand(progress, final_fraction, expected):
    assert kept_fraction(progress, final_fraction) == pytest.approx(expected)


def test_the_kept_fraction_is_the_papers_cubic():
    start, end, final = 3, 43, 0.3
    for step in range(start, end + 1):
        cubic = final + (1 - final) * (1 - (step - start) / (end - start)) ** 3
        assert kept_fraction(pruning_progress(step, start, end), final) == pytest.approx(cubic)


@given(st.floats(0, 500), st.floats(0.5, 500), st.integers(0, 1200))
def test_progress_never_falls_and_stays_a_share(start, length, step):
    now, then = (pruning_progress(moment, start, start + length) for moment in (step, step + 1))
    assert 0 <= now <= then <= 1


# Learning rate


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 0.0),
        (1, 0.25),
        (3, 0.75),
        (4, 1.0),
        (5, 1.0),
        (12, 1.0),
        (13, 7 / 8),
        (16, 0.5),
        (19, 1 / 8),
        (20, 0.0),
        (21, 0.0),
    ],
)
def test_learning_rate_by_hand(step, factor):
    assert pruning_learning_rate(step, warmup_steps=4, end_step=12, total_steps=20) == factor


def test_learning_rate_holds_from_warm_up_when_pruning_ends_earlier():
    curve = [pruning_learning_rate(step, warmup_steps=4, end_step=2, total_steps=8) for step in range(9)]
    assert curve == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]


@pytest.mark.parametrize(
    ("settings", "curve"),
    [
        ({"warmup_steps": 0, "end_step": 0.0, "total_steps": 2}, [1.0, 0.5, 0.0]),
        ({"warmup_steps": 0, "end_step": 3.0, "total_steps": 3}, [1.0, 1.0, 1.0]),
        ({"warmup_steps": 0, "end_step": 1.5, "total_steps": 3}, [1.0, 1.0, 2 / 3]),
        ({"warmup_steps": 1, "end_step": 0.95, "total_steps": 1}, [0.0, 1.0]),
        ({"warmup_steps": 9, "end_step": 1.0, "total_steps": 3}, [0.0, 1 / 9, 2 / 9]),
    ],
)
def test_learning_rate_of_odd_runs(settings, curve):
    assert [pruning_learning_rate(step, **settings) for step in range(len(curve))] == pytest.approx(curve)


@given(st.integers(0, 60), st.floats(0, 50), st.integers(1, 60), st.integers(0, 80))
def test_learning_rate_is_a_share(warmup_steps, end_step, total_steps, step):
    rate = pruning_learning_rate(step, warmup_steps=warmup_steps, end_step=end_step, total_steps=total_steps)
    assert 0 <= rate <= 1


# The moments of a run


def schedule(total_steps: int = 100, interval_steps: int = 10, **windows: tuple[float, float]) -> PruningSchedule:
    defaults = {"hidden": (0.0, 0.5), "attention": (0.1, 0.73), "ffn": (0.2, 0.7)}
    return PruningSchedule(defaults | windows, interval_steps, total_steps)


def test_each_kind_follows_its_own_window():
    progress = schedule().progress(25)
    assert progress == pytest.approx({"hidden": 0.875, "attention": 1 - (48 / 63) ** 3, "ffn": 1 - 0.9**3})


def test_masks_are_chosen_every_interval_at_each_end_and_at_the_deadline():
    due = [step for step in range(1, 101) if schedule().is_due(step)]
    assert due == [10, 20, 30, 40, 50, 60, 70, 73, 80, 90, 95, 100]
    due = [step for step in range(1, 101) if schedule(interval_steps=1000).is_due(step)]
    assert due == [50, 70, 73, 95]


@pytest.mark.parametrize("total_steps", [1, 2, 7, 19, 20, 100, 28_000])
@pytest.mark.parametrize("end", [0.5, 0.73, 0.55, 0.951, 1.0])
def test_all_kinds_have_arrived_at_their_ends_and_at_the_deadline(total_steps, end):
    pruning = schedule(total_steps, 7, ffn=(0.0, end))
    deadline = max(1, math.floor(0.95 * total_steps))
    assert pruning.deadline_step == deadline
    assert set(pruning.progress(deadline).values()) == {1.0}
    assert pruning.is_due(deadline)
    last = min(deadline, math.ceil(round(end * total_steps, 6)))
    assert pruning.progress(last)["ffn"] == 1.0
    assert pruning.is_due(last)
    assert pruning.end_step == pytest.approx(min(deadline, max(end, 0.73) * total_steps))


def test_a_late_window_is_cut_by_the_deadline():
    pruning = schedule(ffn=(0.9, 1.0))
    assert pruning.progress(94)["ffn"] == pytest.approx(1 - 0.6**3)
    assert pruning.progress(95)["ffn"] == 1.0
    assert pruning.end_step == 95


# The guard


def guard(**settings: float) -> DiscrepancyGuard:
    defaults = {"ratio": 1.5, "floor_nats": 0.1, "patience_steps": 30, "smoothing": 0.5}
    return DiscrepancyGuard(**defaults | settings)


def observed(watch: DiscrepancyGuard, *kls: float) -> DiscrepancyGuard:
    for kl in kls:
        watch.observe(kl)
    return watch


def test_the_smoothed_kl_by_hand():
    watch = guard(smoothing=0.9)
    watch.observe(2.0)
    assert watch.smoothed_kl == 2.0
    watch.observe(1.0)
    assert watch.smoothed_kl == pytest.approx(1.9)
    watch.observe(4.0)
    assert watch.smoothed_kl == pytest.approx(2.11)


@pytest.mark.parametrize("kl", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_passed_over(kl):
    watch = observed(guard(), kl)
    assert watch.smoothed_kl is None
    assert observed(watch, 1.0, kl).smoothed_kl == 1.0


def test_nothing_pauses_before_the_first_pruning():
    watch = guard()
    assert watch.allows(1)
    assert observed(watch, 100.0).allows(2)
    assert watch.num_pauses == 0


def test_a_pause_lasts_until_the_kl_has_come_back():
    watch = observed(guard(smoothing=0.0), 1.0)
    watch.mark_pruned()
    assert observed(watch, 1.5).allows(10)  # exactly the ratio
    assert not observed(watch, 1.51).allows(20)
    assert not watch.allows(30)
    assert observed(watch, 1.49).allows(40)
    assert (watch.num_pauses, watch.paused_at_step) == (1, None)
    watch.mark_pruned()
    assert watch.reference_kl == 1.49
    assert observed(watch, 2.0).allows(50)
    assert not observed(watch, 3.0).allows(60)
    assert watch.num_pauses == 2


def test_the_smoothed_kl_is_compared_not_the_last_one():
    watch = observed(guard(smoothing=0.9), 1.0)
    watch.mark_pruned()
    assert observed(watch, 5.0).allows(10)  # 1.4
    assert not observed(watch, 5.0).allows(20)  # 1.76


def test_patience_runs_out_and_starts_anew():
    watch = observed(guard(patience_steps=30), 1.0)
    watch.mark_pruned()
    observed(watch, *[100.0] * 10)
    assert [watch.allows(step) for step in (10, 20, 30, 39, 40)] == [False, False, False, False, True]
    assert watch.num_pauses == 1
    watch.mark_pruned()
    assert watch.allows(50)  # measured against the new reference
    observed(watch, *[1000.0] * 10)
    assert [watch.allows(step) for step in (60, 89, 90)] == [False, False, True]
    assert watch.num_pauses == 2


def test_patience_buys_one_step_a_pause():
    watch = observed(guard(patience_steps=20), 1.0)
    watch.mark_pruned()
    observed(watch, *[100.0] * 10)
    assert [watch.allows(step) for step in (10, 20, 30, 40, 50, 60)] == [False, False, True, False, False, True]
    assert watch.num_pauses == 2


def test_a_small_kl_never_pauses():
    watch = observed(guard(smoothing=0.0, floor_nats=0.1), 1e-6)
    watch.mark_pruned()
    assert observed(watch, 0.1).allows(10)
    assert not observed(watch, 0.11).allows(20)


def test_catching_up_goes_where_the_schedule_is_by_then():
    watch = observed(guard(smoothing=0.0), 1.0)
    pruning, reached = schedule(hidden=(0.0, 1.0)), []
    for step in range(10, 60, 10):
        observed(watch, 9.0 if step in (20, 30) else 1.0)
        if watch.allows(step):
            watch.mark_pruned()
            reached.append(pruning.progress(step)["hidden"])
    assert reached == pytest.approx([1 - (1 - step / 100) ** 3 for step in (10, 40, 50)])


def test_the_state_survives_json_in_the_middle_of_a_pause():
    watch = observed(guard(), 1.0 / 3.0)
    watch.mark_pruned()
    assert not observed(watch, 7.0 / 3.0).allows(20)
    state = json.loads(json.dumps(watch.state_dict()))
    assert set(state) == {"smoothed_kl", "reference_kl", "paused_at_step", "num_pauses"}
    other = guard()
    other.load_state_dict(state)
    assert other == watch
    for step in range(21, 80):
        kl = (37 * step % 11) ** 2 / 7
        observed(watch, kl)
        observed(other, kl)
        assert watch.allows(step) == other.allows(step)
        if step % 9 == 0:
            watch.mark_pruned()
            other.mark_pruned()
        assert other == watch
    assert watch.num_pauses > 1
