"""Memory, parts and the GPU's share of a step, read from a profiler."""

from types import SimpleNamespace

import pytest
import torch
from rows import each
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.profiles import busy_seconds, exclusive_seconds, peak_above

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


def session_of(*events):
    """What a profiler hands out: device, start and end in seconds, and whether it is a range of the user's."""
    found = [
        SimpleNamespace(
            device_type=lambda device=device: SimpleNamespace(name=device),
            start_ns=lambda start=start: int(start * 1e9),
            duration_ns=lambda start=start, end=end: int((end - start) * 1e9),
            is_user_annotation=lambda is_range=is_range: is_range,
        )
        for device, start, end, is_range in events
    ]
    return SimpleNamespace(profiler=SimpleNamespace(kineto_results=SimpleNamespace(events=lambda: found)))


def test_a_gpu_is_at_work_while_any_kernel_runs():
    kernels = [("CUDA", 1, 3, False), ("CUDA", 2, 4, False), ("CUDA", 2, 2.5, False), ("CUDA", 7, 8, False)]
    others = [("CPU", 4, 7, False), ("CUDA", 0, 10, True)]
    assert busy_seconds(session_of(*kernels[::-1], *others)) == 4.0
    assert busy_seconds(session_of(*others)) == 0.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_gpus_work_is_seen():
    matrix = torch.ones(2048, 2048, device="cuda")
    with profile(activities=[ProfilerActivity.CUDA]) as session:
        for _ in range(10):
            matrix @ matrix
        torch.cuda.synchronize()
    assert 1e-5 < busy_seconds(session) < 1


def test_a_cpus_session_has_no_work_of_a_gpu():
    with profile(activities=[ProfilerActivity.CPU]) as session:
        torch.ones(8, 8) @ torch.ones(8, 8)
    assert busy_seconds(session) == 0.0
