"""Memory and parts of a step, read from a profiler."""

import pytest
import torch
from rows import each
from tiny_models import GRADUAL
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.interleaved import GatedRun
from benchmarks.speed.profiles import (
    PARTS,
    allocations_of,
    exclusive_seconds,
    gradients_of,
    gradients_recorded,
    part_seconds,
    peak_above,
)
from homodistil_hf.distillation.teacher import FrozenTeacher

MB = 1_000_000


@each(
    ("allocations", "gradients", "expected"),
    [
        ([], [], 0),
        ([(0, 5), (1, -5), (2, 4)], [], 5),
        ([(0, 5), (1, 7), (3, -5), (4, 2)], [(2, 7)], 12),  # the peak comes before the gradient is one
        ([(0, 5), (1, 7), (3, 6)], [(2, 7)], 12),
        ([(0, 5), (1, 7), (3, 8)], [(2, 7)], 13),
        ([(0, -9), (1, 3)], [], 0),
    ],
)
def test_gradients_are_no_part_of_the_peak(allocations, gradients, expected):
    assert peak_above(allocations, gradients) == expected


def test_a_known_computation_has_its_known_peak():
    weight = torch.randn(500, 500, requires_grad=True)  # 1 MB
    inputs = torch.randn(1000, 500)
    session = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with gradients_recorded([weight]), session:
        (inputs @ weight).square().sum().backward()
    assert gradients_of(session)[0][1] == MB
    # Product and square are 2 MB each; backward adds 2·product, then the product's gradient; the weight's own is not
    # counted once it is there.
    assert 5 * MB <= peak_above(allocations_of(session, "cpu"), gradients_of(session)) <= 8.1 * MB
    assert peak_above(allocations_of(session, "cpu"), []) > peak_above(
        allocations_of(session, "cpu"), [(moment - 10**9, size) for moment, size in gradients_of(session)]
    )


def test_ranges_count_without_what_lies_within_them():
    second = 10**9
    ranges = [
        ("losses", 0, 10 * second),
        ("teacher", 1 * second, 3 * second),
        ("student", 3 * second, 7 * second),
        ("masks", 4 * second, 5 * second),
        ("backward", 10 * second, 15 * second),
        ("masks", 15 * second, 16 * second),
    ]
    assert exclusive_seconds(ranges[::-1]) == {
        "losses": 4.0,
        "teacher": 2.0,
        "student": 3.0,
        "masks": 2.0,
        "backward": 5.0,
    }


@pytest.fixture
def run(make_trainer):
    run = GatedRun("profiled", make_trainer(max_steps=8, **GRADUAL | {"pruning_interval_steps": 8}))
    run.advance()
    yield run
    run.close()


def test_parts_add_up_to_a_step_and_leave_no_trace(run):
    methods = set(vars(run.trainer)), FrozenTeacher.__call__, run.trainer.model.forward
    parts = part_seconds(run)
    assert tuple(parts) == PARTS
    assert min(parts.values()) >= 0
    assert {part for part, seconds in parts.items() if seconds > 0} == set(PARTS)
    assert (set(vars(run.trainer)), FrozenTeacher.__call__, run.trainer.model.forward) == methods
