"""The one measuring routine: several things timed in turns, summed up by medians and quartiles.

What is timed is a callable; how a model becomes one isn't here. Nothing measured here may steer a run.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Pass = Callable[[], object]
"""One forward pass, complete when it returns."""

_LONG_MS = 250.0
_REST_SECONDS = 0.03


@dataclass(frozen=True)
class Latency:
    """Wall-clock milliseconds of one forward pass over one batch.

    Args:
        median_ms: the figure to quote.
        lower_quartile_ms: a quarter of the turns was at most as long.
        upper_quartile_ms: three quarters of the turns were at most as long.
        min_ms: the shortest turn.
        num_rounds: turns that were timed; those of the warm-up are not among them.
    """

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    min_ms: float
    num_rounds: int

    @classmethod
    def from_durations(cls, durations_ms: Sequence[float]) -> "Latency":
        """Sum durations up.

        Args:
            durations_ms: one a round, milliseconds, in any order.

        Returns:
            [`Latency`].

        Example:
        ```python
        >>> Latency.from_durations([4.0, 1.0, 2.0, 3.0, 5.0])
        Latency(median_ms=3.0, lower_quartile_ms=2.0, upper_quartile_ms=4.0, min_ms=1.0, num_rounds=5)

        ```
        """
        lower, median, upper = quartiles(durations_ms)
        return cls(median, lower, upper, min(durations_ms), len(durations_ms))


@dataclass(frozen=True)
class SpeedUp:
    """How many times faster something is than its reference.

    Args:
        ratio: the reference's median over its own.
        lower_quartile: of the ratios that the rounds have one by one.
        upper_quartile: likewise.
    """

    ratio: float
    lower_quartile: float
    upper_quartile: float


def time_in_turns(
    passes: Mapping[str, Pass], *, num_rounds: int = 20, num_warmup: int = 3, num_passes: int = 3
) -> dict[str, list[float]]:
    """Time several things A B C A B C …, so that their ratios hold on a machine that is also busy.

    What slows the machine down for a while slows all of them. A turn begins with a short rest, because the threads of
    an ONNX Runtime session go on waiting actively for some milliseconds and would take a core from the next one, and
    with a pass that does not count: it brings weights back into the caches. Where that takes a quarter of a second or
    more it makes no difference, and it is the whole turn.

    Args:
        passes: name → what is timed.
        num_rounds: timed turns of each.
        num_warmup: turns of each before those; may be 0.
        num_passes: timed passes a turn, of which the median counts.

    Returns:
        `dict[str, list[float]]`: name → milliseconds of every round, in order.

    Raises:
        ValueError: a number is too small.

    Example:
    ```python
    >>> [len(durations) for durations in time_in_turns({"a": list, "b": dict}, num_rounds=2).values()]
    [2, 2]

    ```
    """
    minima = {"num_rounds": (num_rounds, 1), "num_warmup": (num_warmup, 0), "num_passes": (num_passes, 1)}
    for name, (value, minimum) in minima.items():
        if value < minimum:
            raise ValueError(f"{name}={value} is too small; nearest valid: {minimum}")
    durations_ms: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(num_warmup + num_rounds):
        for name, forward in passes.items():
            durations_ms[name].append(_turn_ms(forward, num_passes))
    return {name: durations[num_warmup:] for name, durations in durations_ms.items()}


def speed_ups(durations_ms: Mapping[str, Sequence[float]], reference: str) -> dict[str, SpeedUp]:
    """Compare everything that was timed with one of them.

    Args:
        durations_ms: what [`time_in_turns`] returned.
        reference: name of the one that the others are compared with.

    Returns:
        `dict[str, SpeedUp]`: by name, without the reference.

    Example:
    ```python
    >>> speed_ups({"teacher": [8.0, 9.0, 10.0], "student": [2.0, 3.0, 2.0]}, "teacher")["student"]
    SpeedUp(ratio=4.5, lower_quartile=3.5, upper_quartile=4.5)

    ```
    """
    base = durations_ms[reference]
    return {
        name: SpeedUp(
            statistics.median(base) / statistics.median(own),
            *quartiles([slow / fast for slow, fast in zip(base, own, strict=True)])[::2],
        )
        for name, own in durations_ms.items()
        if name != reference
    }


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The spread of repeated timings.

    Args:
        values: one or more.

    Returns:
        `tuple[float, float, float]`: lower quartile, median, upper quartile.
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def _turn_ms(forward: Pass, num_passes: int) -> float:
    time.sleep(_REST_SECONDS)
    first_ms = _time_ms(forward)
    if first_ms >= _LONG_MS:
        return first_ms
    return statistics.median(_time_ms(forward) for _ in range(num_passes))


def _time_ms(forward: Pass) -> float:
    start = time.perf_counter()
    forward()
    return 1000 * (time.perf_counter() - start)
