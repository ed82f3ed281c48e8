"""The course of widths: what the pruner itself would do, and what sums over it mean."""

import pytest
import torch
from tiny_models import make_teacher

from benchmarks.speed.whole_run import course, total_seconds
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.pruning.pruner import Pruner
from homodistil_hf.pruning.schedule import PruningSchedule

TARGET = WidthPlan.uniform(16, 2, LayerWidths(2, 6, 24))
FULL = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))


def schedule(end: float = 0.7, *, interval: int = 3, total: int = 60) -> PruningSchedule:
    return PruningSchedule((0.0, end), interval, total)


def test_the_course_is_what_the_pruner_does():
    student = to_student(make_teacher())
    pruner = Pruner(student, TARGET, multiple=4)
    seen, num_choices = [], 0
    for step in range(1, 61):
        seen.append(pruner.kept)
        pruner.scores.state = {name: torch.rand(group.num_units) for name, group in pruner.groups.items()}
        num_choices += pruner.step(step, schedule()) is not None
    found = course(widths_of(make_teacher().config), TARGET, schedule(), multiple=4)
    assert [stretch.plan for stretch in found for _ in range(stretch.num_steps)] == seen
    assert found[-1].plan == TARGET
    assert len(found) == num_choices + 1 > 5


def test_what_lies_between_two_points_is_interpolated():
    measured = {100: 10.0, 50: 6.0, 20: 2.0}
    assert total_seconds([(100, 1)], measured) == 10.0
    assert total_seconds([(75, 2)], measured) == pytest.approx(16.0)
    assert total_seconds([(35, 1), (50, 3)], measured) == pytest.approx(4.0 + 18.0)
    assert total_seconds([(10, 1), (200, 1)], measured) == 12.0
    assert total_seconds([], {}) == 0.0
