"""Memory and parts of a step, read from a profiler."""

from rows import each

from benchmarks.speed.profiles import exclusive_seconds, peak_above

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
