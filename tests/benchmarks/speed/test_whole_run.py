"""The course of widths: what the pruner itself would do, and what sums over it mean."""

import pytest
import torch
from rows import each
from tiny_models import make_teacher

from benchmarks.speed.whole_run import Stretch, chosen_points, course, macs_and_steps, mean_cost, total_seconds
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.pruning.pruner import Pruner, PruningSettings
from homodistil_hf.pruning.schedule import PruningSchedule

KINDS = ("hidden", "attention", "ffn")
TARGET = WidthPlan.uniform(16, 2, LayerWidths(2, 6, 24))
FULL = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))


def schedule(end: float = 0.7, *, interval: int = 3, total: int = 60) -> PruningSchedule:
    return PruningSchedule(dict.fromkeys(KINDS, (0.0, end)), interval, total)


def test_the_course_is_what_the_pruner_does():
    student = to_student(make_teacher())
    pruner = Pruner(student, TARGET, settings=PruningSettings(multiple=4))
    seen, num_choices = [], 0
    for step in range(1, 61):
        seen.append(pruner.kept)
        pruner.scores.state = {name: torch.rand(group.num_units) for name, group in pruner.groups.items()}
        num_choices += pruner.step(step, schedule()) is not None
    found = course(widths_of(make_teacher().config), TARGET, schedule(), multiple=4)
    assert [stretch.plan for stretch in found for _ in range(stretch.num_steps)] == seen
    assert found[-1].plan == TARGET
    assert len(found) == num_choices + 1 > 5


def test_a_student_as_wide_as_its_teacher_has_one_stretch():
    assert course(FULL, FULL, schedule()) == [Stretch(60, FULL)]


@each(("num_points", "expected"), [(2, [64, 4]), (3, [64, 16, 4]), (4, [64, 24, 10, 4])])
def test_points_are_spread_from_first_to_last_by_the_logarithm_of_macs(monkeypatch, num_points, expected):
    monkeypatch.setattr("benchmarks.speed.whole_run.encoder_macs", lambda plan, _: plan.layers[0].intermediate_size)
    places = [Stretch(1, WidthPlan.uniform(32, 2, LayerWidths(4, 8, size))) for size in (64, 48, 24, 16, 10, 6, 4)]
    found = chosen_points(places, num_points, 16)
    assert [place.plan.layers[0].intermediate_size for place in found] == expected


def test_one_place_is_measured_once():
    places = [Stretch(60, FULL)]
    assert chosen_points(places, 4, 16) == places


def test_what_lies_between_two_points_is_interpolated():
    measured = {100: 10.0, 50: 6.0, 20: 2.0}
    assert total_seconds([(100, 1)], measured) == 10.0
    assert total_seconds([(75, 2)], measured) == pytest.approx(16.0)
    assert total_seconds([(35, 1), (50, 3)], measured) == pytest.approx(4.0 + 18.0)
    assert total_seconds([(10, 1), (200, 1)], measured) == 12.0
    assert total_seconds([], {}) == 0.0


def test_a_mean_cost_counts_steps():
    stretches = [Stretch(3, FULL), Stretch(4, TARGET)]
    full, target = encoder_macs(FULL, 16), encoder_macs(TARGET, 16)
    assert macs_and_steps(stretches, 16) == [(full, 3), (target, 4)]
    assert mean_cost(stretches, 16) == pytest.approx((3 * full + 4 * target) / (7 * full))
