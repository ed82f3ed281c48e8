import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import each

from homodistil_hf.pruning.schedule import PruningSchedule, pruning_learning_rate, pruning_progress

# Kept fractions


STEPS = (0, 9, 10, 11, 12, 15, 20, 25, 29, 30, 31, 10**9)
PROGRESS = (0, 0, 0, 1 - 0.95**3, 1 - 0.729, 1 - 27 / 64, 1 - 1 / 8, 1 - 1 / 64, 1 - 0.05**3, 1, 1, 1)


@each(("step", "progress"), zip(STEPS, PROGRESS, strict=True))
def test_progress_by_hand(step, progress):
    assert pruning_progress(step, 10, 30) == pytest.approx(progress, abs=1e-15)


def test_the_kept_fraction_is_the_papers_cubic():
    start, end, final = 3, 43, 0.3
    for step in range(start, end + 1):
        cubic = final + (1 - final) * (1 - (step - start) / (end - start)) ** 3
        assert 1 - (1 - final) * pruning_progress(step, start, end) == pytest.approx(cubic)


@given(st.floats(0, 500), st.floats(0.5, 500), st.integers(0, 1200))
def test_progress_never_falls_and_stays_a_share(start, length, step):
    now, then = (pruning_progress(moment, start, start + length) for moment in (step, step + 1))
    assert 0 <= now <= then <= 1


# Learning rate


RATES = {0: 0, 1: 0.25, 3: 0.75, 4: 1, 5: 1, 12: 1, 13: 7 / 8, 16: 0.5, 19: 1 / 8, 20: 0, 21: 0}


@each(("step", "factor"), RATES.items())
def test_learning_rate_by_hand(step, factor):
    assert pruning_learning_rate(step, warmup_steps=4, end_step=12, total_steps=20) == factor


def test_learning_rate_holds_from_warm_up_when_pruning_ends_earlier():
    curve = [pruning_learning_rate(step, warmup_steps=4, end_step=2, total_steps=8) for step in range(9)]
    assert curve == [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]


@each(
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


@each(("window", "progress"), {(0.0, 0.5): 0.875, (0.1, 0.73): 1 - (48 / 63) ** 3, (0.2, 0.7): 1 - 0.9**3}.items())
def test_the_window_is_a_share_of_the_run(window, progress):
    assert PruningSchedule(window, 10, 100).progress(25) == pytest.approx(progress)


@each(("interval_steps", "due"), {10: [10, 20, 30, 40, 50, 60, 70, 73, 80, 90, 100], 1000: [73]}.items())
def test_masks_are_chosen_every_interval_and_at_the_end(interval_steps, due):
    assert [step for step in range(1, 101) if PruningSchedule((0.0, 0.73), interval_steps, 100).is_due(step)] == due


@each("total_steps", [1, 2, 7, 19, 20, 100, 28_000])
@each("end", [0.5, 0.73, 0.55, 0.951, 1.0])
def test_the_plan_is_reached_at_the_end_and_by_the_deadline(total_steps, end):
    pruning = PruningSchedule((0.0, end), 7, total_steps)
    deadline = max(1, math.floor(0.95 * total_steps))
    last = min(deadline, math.ceil(round(end * total_steps, 6)))
    assert pruning.progress(last) == pruning.progress(deadline) == 1.0
    assert pruning.is_due(last)
    assert pruning.end_step == pytest.approx(min(deadline, end * total_steps))


@given(st.integers(1, 500), st.floats(0, 0.9), st.floats(0.01, 1), st.integers(0, 600))
def test_progress_is_the_cubic_to_the_last_bit(total_steps, start, length, step):
    pruning = PruningSchedule((start, start + length), 10, total_steps)
    assert pruning.progress(step) == pruning_progress(step, start * total_steps, pruning.end_step)


def test_a_window_shorter_than_a_step_ends_at_the_first():
    assert PruningSchedule((0.0, 1e-12), 10, 100).is_due(1)
    assert not PruningSchedule((0.0, 0.0), 10, 100).is_due(1)
