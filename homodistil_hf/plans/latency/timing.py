"""The one measuring routine: several callables timed in turns, summed up by medians and quartiles.

backends.py makes callables of models. No measured time may steer a run.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Pass = Callable[[], object]
"""One forward pass, complete when it returns."""

_LONG_MS = 250.0
_REST_SECONDS = 0.03


def time_in_turns(
    passes: Mapping[str, Pass], *, num_rounds: int = 20, num_warmup: int = 3, num_passes: int = 3
) -> dict[str, list[float]]:
    """Time several callables A B C A B C …, so that their ratios hold on a busy machine: a slow phase slows them all.

    A turn begins with a short rest: the threads of an ONNX Runtime session go on waiting actively for some
    milliseconds and would take a core from the next callable. Then comes a pass that does not count, which brings
    weights back into the caches. If it takes a quarter of a second or more, it is the whole turn and counts.

    Args:
        passes: name → callable.
        num_rounds: timed turns of each, ≥ 1.
        num_warmup: turns of each before those, ≥ 0.
        num_passes: timed passes a turn, ≥ 1; their median counts.

    Returns:
        Name → milliseconds of every round, in order.
    """
    durations_ms: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(num_warmup + num_rounds):
        for name, forward in passes.items():
            durations_ms[name].append(_turn_ms(forward, num_passes))
    return {name: durations[num_warmup:] for name, durations in durations_ms.items()}


def figures(durations_ms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Sum up the results of [`time_in_turns`], and compare all with the first.

    Returns:
        `latency`: name → `median_ms`, quartiles and `min_ms` of one pass over one batch, and `num_rounds`; `speed_up`:
        name, except for the first → `ratio`, how many times faster by the medians, and the quartiles of the ratios of
        single rounds.

    Example:
    ```python
    >>> found = figures({"teacher": [8.0, 9.0, 10.0], "student": [2.0, 3.0, 2.0]})
    >>> found["latency"]["student"]
    {'median_ms': 2.0, 'lower_quartile_ms': 2.0, 'upper_quartile_ms': 2.5, 'min_ms': 2.0, 'num_rounds': 3}
    >>> found["speed_up"]
    {'student': {'ratio': 4.5, 'lower_quartile': 3.5, 'upper_quartile': 4.5}}

    ```
    """
    reference, *others = durations_ms
    latency = {}
    for name, durations in durations_ms.items():
        lower, median, upper = quartiles(durations)
        quartiles_ms = {"lower_quartile_ms": lower, "upper_quartile_ms": upper}
        latency[name] = {"median_ms": median, **quartiles_ms, "min_ms": min(durations), "num_rounds": len(durations)}
    speed_up = {}
    for name in others:
        rounds = zip(durations_ms[reference], durations_ms[name], strict=True)
        lower, _, upper = quartiles([slow / fast for slow, fast in rounds])
        ratio = latency[reference]["median_ms"] / latency[name]["median_ms"]
        speed_up[name] = {"ratio": ratio, "lower_quartile": lower, "upper_quartile": upper}
    return {"latency": latency, "speed_up": speed_up}


def quartiles(values: Sequence[float]) -> list[float]:
    """Return lower quartile, median and upper quartile of one or more values."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3


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
