"""The places of a schedule that are measured, and the sums over all of its steps.

What is measured there is `speed.py`'s business, how widths come about `course.py`'s.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.speed.course import Stretch, chosen_points, course, macs_and_steps, plateaus, total_seconds
from benchmarks.speed.settings import BenchSettings
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.plans.latency.timing import quartiles

REFERENCE, START, MASKED = "reference", "ours, start", "ours, all masked"


@dataclass(frozen=True)
class Way:
    """The places that are measured, and the course that they stand for.

    Args:
        stretches: the whole course.
        points: name → place with compaction.
    """

    stretches: list[Stretch]
    points: dict[str, Stretch]

    @property
    def places(self) -> dict[str, Stretch]:
        """Every place that an arm of ours is held at."""
        first, last = self.stretches[0], self.stretches[-1]
        return {START: first, **self.points, MASKED: Stretch(0, first.present, last.kept)}


def way_of(settings: BenchSettings) -> Way:
    """Choose what to measure.

    Args:
        settings: of the benchmark.

    Returns:
        [`Way`].
    """
    stretches = course(
        settings.full,
        settings.target,
        settings.schedule,
        multiple=settings.multiple,
        threshold=settings.compaction_threshold,
    )
    full_macs = encoder_macs(settings.full, settings.length)
    points = chosen_points(plateaus(stretches), settings.points)
    names = (f"ours, {encoder_macs(point.present, settings.length) / full_macs:.0%} of MACs" for point in points)
    return Way(stretches, dict(zip(names, points, strict=True)))


def whole_schedule(
    settings: BenchSettings, way: Way, seconds: Mapping[str, Sequence[float]], pruning: Mapping[str, Any]
) -> dict[str, Any]:
    """Add up all steps of the run.

    Args:
        settings: of the benchmark.
        way: what was measured, and what for.
        seconds: arm → seconds of its timed steps; each round of turns gives one value of every sum.
        pruning: place → what pruning costs there, in seconds.

    Returns:
        `dict` of JSON values: `pruning`, and for every arm `seconds`, `tokens_per_second` and `speedups`.
    """
    extra = _pruning_seconds(way, pruning, settings.length)
    extra_seconds = extra["choices_seconds"] + extra["compactions_seconds"]
    rounds = [{name: values[turn] for name, values in seconds.items()} for turn in range(settings.rounds)]
    totals = {
        "ours": [extra_seconds + _compacted_seconds(way, times, settings.length) for times in rounds],
        "ours, never compacted": [_masked_seconds(way, times, settings.length) for times in rounds],
    }
    if REFERENCE in seconds:
        totals[REFERENCE] = [settings.max_steps * times[REFERENCE] for times in rounds]
    num_tokens = settings.max_steps * settings.num_tokens
    spent = extra_seconds + extra["scores_and_masks_seconds"]
    schedule: dict[str, Any] = {"pruning": extra | {"fraction": spent / statistics.median(totals["ours"])}}
    for name, values in totals.items():
        schedule[name] = {
            "seconds": summary(values),
            "tokens_per_second": summary([num_tokens / value for value in values]),
            "speedups": {
                other: summary([theirs / own for theirs, own in zip(totals[other], values, strict=True)])
                for other in totals
                if other != name
            },
        }
    return schedule


def _compacted_seconds(way: Way, times: Mapping[str, float], length: int) -> float:
    measured = {encoder_macs(point.present, length): times[name] for name, point in way.points.items()}
    return total_seconds(list(macs_and_steps(way.stretches, length)), measured)


def _masked_seconds(way: Way, times: Mapping[str, float], length: int) -> float:
    """Without compaction: no masks at first; from then on between the first plateau's masks and the last ones."""
    name, first_point = next(iter(way.points.items()))
    measured = {encoder_macs(first_point.kept, length): times[name]}
    measured[encoder_macs(way.places[MASKED].kept, length)] = times[MASKED]
    free = [stretch for stretch in way.stretches if stretch.kept == way.stretches[0].kept]
    masked = list(macs_and_steps(way.stretches[len(free) :], length, masked=True))
    return times[START] * sum(stretch.num_steps for stretch in free) + total_seconds(masked, measured)


def _pruning_seconds(way: Way, pruning: Mapping[str, Any], length: int) -> dict[str, Any]:
    places = plateaus(way.stretches)
    macs = {name: encoder_macs(point.present, length) for name, point in way.points.items()}

    def seconds_of(what: str) -> dict[int, float]:
        return {macs[name]: costs[what] for name, costs in pruning.items() if what in costs}

    # Masks change where a stretch ends, parameters where a plateau does; the last ones end with the run.
    changes = [(value, 1) for value, _ in macs_and_steps(way.stretches[:-1], length)]
    removals = [(value, 1) for value, _ in macs_and_steps(places[:-1], length)]
    steps = list(macs_and_steps(way.stretches, length))
    return {
        "scores_and_masks_seconds": total_seconds(steps, seconds_of("scores_and_masks_seconds")),
        "num_choices": len(changes),
        "choices_seconds": total_seconds(changes, seconds_of("choice_seconds")),
        "num_compactions": len(removals),
        "compactions_seconds": total_seconds(removals, seconds_of("compaction_seconds")),
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and spread of repeated measurements.

    Args:
        values: at least one.

    Returns:
        `dict`: `median`, `q1` and `q3`, and all `values`.

    Example:
    ```python
    >>> summary([3.0, 1.0, 2.0])
    {'median': 2.0, 'q1': 1.5, 'q3': 2.5, 'values': [3.0, 1.0, 2.0]}

    ```
    """
    q1, median, q3 = quartiles(values)
    return {"median": median, "q1": q1, "q3": q3, "values": list(values)}
