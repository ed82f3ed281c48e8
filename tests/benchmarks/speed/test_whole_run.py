"""The course of widths: what the pruner itself would do, and what sums over it mean."""

import pytest
import torch
from tiny_models import make_teacher

from benchmarks.speed.whole_run import Stretch, chosen_points, course, macs_and_steps, plateaus, total_seconds
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, teacher_plan
from homodistil_hf.pruning.pruner import Pruner, PruningSettings
from homodistil_hf.pruning.schedule import PruningSchedule

KINDS = ("hidden", "attention", "ffn")
TARGET = WidthPlan.uniform(16, 2, LayerWidths(2, 6, 24))
FULL = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))


def schedule(end: float = 0.7, *, interval: int = 3, total: int = 60) -> PruningSchedule:
    return PruningSchedule(dict.fromkeys(KINDS, (0.0, end)), interval, total)


@pytest.mark.parametrize("threshold", [0.0, 0.15, 0.5, 1.0])
def test_the_course_is_what_the_pruner_does(threshold):
    student = to_student(make_teacher())
    pruner = Pruner(student, TARGET, settings=PruningSettings(multiple=4, compaction_threshold=threshold))
    seen = []
    for step in range(1, 61):
        seen.append((pruner.present, pruner.kept))
        pruner.scores.state = {name: torch.rand(len(mask)) for name, mask in pruner.masks.items()}
        pruner.step(step, schedule())
    found = course(teacher_plan(make_teacher().config), TARGET, schedule(), multiple=4, threshold=threshold)
    assert [(s.present, s.kept) for s in found for _ in range(s.num_steps)] == seen
    assert found[-1].present == TARGET
    assert len(plateaus(found)) == pruner.num_compactions + 1


def test_a_student_as_wide_as_its_teacher_has_one_stretch():
    assert course(FULL, FULL, schedule()) == [Stretch(60, FULL, FULL)]


def test_plateaus_join_stretches_and_keep_the_middle_masks():
    widths = [WidthPlan.uniform(32, 2, LayerWidths(4, 8, size)) for size in (64, 56, 48, 40)]
    stretches = [Stretch(n, FULL, kept) for n, kept in zip((2, 10, 4), widths, strict=False)]
    stretches.append(Stretch(5, widths[3], widths[3]))
    assert plateaus(stretches) == [Stretch(16, FULL, widths[1]), Stretch(5, widths[3], widths[3])]


@pytest.mark.parametrize(("num_points", "expected"), [(2, [0, 6]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (99, range(7))])
def test_points_are_spread_from_first_to_last(num_points, expected):
    places = [Stretch(1, FULL, WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64 - i))) for i in range(7)]
    assert chosen_points(places, num_points) == [places[i] for i in expected]


def test_one_place_is_measured_once():
    places = [Stretch(60, FULL, FULL)]
    assert chosen_points(places, 4) == places


def test_what_lies_between_two_points_is_interpolated():
    measured = {100: 10.0, 50: 6.0, 20: 2.0}
    assert total_seconds([(100, 1)], measured) == 10.0
    assert total_seconds([(75, 2)], measured) == pytest.approx(16.0)
    assert total_seconds([(35, 1), (50, 3)], measured) == pytest.approx(4.0 + 18.0)
    assert total_seconds([(10, 1), (200, 1)], measured) == 12.0
    assert total_seconds([], {}) == 0.0


def test_steps_count_with_the_parameters_or_with_what_the_masks_leave():
    stretches = [Stretch(3, FULL, TARGET), Stretch(4, TARGET, TARGET)]
    full, target = encoder_macs(FULL, 16), encoder_macs(TARGET, 16)
    assert list(macs_and_steps(stretches, 16)) == [(full, 3), (target, 4)]
    assert list(macs_and_steps(stretches, 16, masked=True)) == [(target, 3), (target, 4)]
