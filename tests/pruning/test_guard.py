import json
import math

import pytest

from homodistil_hf.pruning.guard import DiscrepancyGuard
from homodistil_hf.pruning.schedule import PruningSchedule


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


def moment(watch: DiscrepancyGuard, step: int, *, end_step: float = 100, deadline_step: int = 190) -> float:
    return watch.moment(step, end_step=end_step, deadline_step=deadline_step)


def paused(watch: DiscrepancyGuard, *, since: int, until: int) -> DiscrepancyGuard:
    watch.smoothing = 0.0
    watch.observe(1.0)
    watch.mark_pruned()
    watch.observe(9.0)
    assert not watch.allows(since, moment=moment(watch, since))
    watch.observe(1.0)
    assert watch.allows(until, moment=moment(watch, until))
    return watch


def test_without_a_pause_the_moment_is_the_step():
    assert [moment(guard(), step) for step in (0, 1, 99, 100, 150)] == [0, 1, 99, 100, 150]


def test_after_a_pause_pruning_goes_on_where_it_stopped_and_arrives_with_the_schedule():
    watch = paused(guard(), since=20, until=40)
    assert [moment(watch, step) for step in (40, 70, 100, 101)] == pytest.approx([20, 60, 100, 101])


def test_catching_up_drops_little_by_little():
    watch = observed(guard(smoothing=0.0), 1.0)
    pruning, reached = PruningSchedule({"hidden": (0.0, 1.0)}, interval_steps=10, total_steps=200), []
    for step in range(10, 210, 10):
        observed(watch, 9.0 if step in (20, 30, 40, 50) else 1.0)
        if watch.allows(step, moment=moment(watch, step, end_step=200)):
            watch.mark_pruned()
            reached.append(pruning.progress(moment(watch, step, end_step=200))["hidden"])
    falls = [after - before for before, after in zip([0.0, *reached], reached, strict=False)]
    assert reached[-1] == 1.0
    assert max(falls) == falls[0]  # the cubic's first, and none of those that catch up


def test_a_second_pause_starts_from_where_catching_up_had_come():
    watch = paused(guard(), since=20, until=40)
    stood = moment(watch, 70)
    watch = paused(watch, since=70, until=80)
    assert moment(watch, 80) == pytest.approx(stood)
    assert moment(watch, 100) == 100


@pytest.mark.parametrize("until", [95, 100, 130])
def test_a_pause_over_the_end_leaves_as_long_to_catch_up(until):
    watch = paused(guard(), since=90, until=until)
    end = max(100, until + (until - 90))
    moments = [moment(watch, step) for step in (until, (until + end) / 2, end - 1, end)]
    assert moments[0] == 90
    assert moments[1] == pytest.approx(95)
    assert 95 < moments[2] < 100 <= moments[3]


def test_catching_up_ends_at_the_deadline():
    watch = paused(guard(), since=90, until=160)
    assert moment(watch, 175, deadline_step=190) == pytest.approx(95)
    assert moment(watch, 190, deadline_step=190) == 190


def test_the_state_survives_json_in_the_middle_of_a_pause():
    watch = observed(guard(), 1.0 / 3.0)
    watch.mark_pruned()
    assert not observed(watch, 7.0 / 3.0).allows(20)
    state = json.loads(json.dumps(watch.state_dict()))
    assert state == {
        "smoothed_kl": watch.smoothed_kl,
        "reference_kl": 1.0 / 3.0,
        "paused_at_step": 20,
        "paused_at_moment": 20.0,
        "clock_set_at_step": 0,
        "clock_set_to": 0.0,
        "num_pauses": 1,
    }
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
