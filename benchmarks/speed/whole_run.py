"""The widths that a student passes on its way to a plan, the places that are measured, and sums over all steps.

Under local allocation widths depend on nothing but the schedule, the target and the static cost model, so the whole
course is known without training: [`course`] repeats what `Pruner.step` decides, a pause of the guard left out.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.speed.settings import BenchSettings
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.plans.latency.timing import quartiles
from homodistil_hf.pruning.compaction import is_worthwhile
from homodistil_hf.pruning.masks import scheduled_plan
from homodistil_hf.pruning.schedule import PruningSchedule

REFERENCE, START, MASKED = "reference", "ours, start", "ours, all masked"


@dataclass(frozen=True)
class Stretch:
    """Steps in a row that see the same widths: those of the parameters, and those that the masks leave."""

    num_steps: int
    present: WidthPlan
    kept: WidthPlan


def course(
    full: WidthPlan, target: WidthPlan, schedule: PruningSchedule, *, multiple: int = 8, threshold: float = 0.1
) -> list[Stretch]:
    """The widths of every step of a run, from those of the teacher to those of the plan."""
    stretches: list[Stretch] = []
    present = kept = full
    is_reached = full == target
    for step in range(1, schedule.total_steps + 1):
        if stretches and (stretches[-1].present, stretches[-1].kept) == (present, kept):
            stretches[-1] = replace(stretches[-1], num_steps=stretches[-1].num_steps + 1)
        else:
            stretches.append(Stretch(1, present, kept))
        if is_reached or not schedule.is_due(step):
            continue
        progress = schedule.progress(step)
        kept = scheduled_plan(full, target, progress=progress, present=kept, multiple=multiple)
        is_reached = all(value == 1 for value in progress.values())
        if is_worthwhile(present, kept, threshold=0.0 if is_reached else threshold):
            present = kept
    return stretches


def plateaus(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Join the stretches between two compactions; `kept` is what the masks leave in the middle of them."""
    joined: list[list[Stretch]] = []
    for stretch in stretches:
        if joined and joined[-1][0].present == stretch.present:
            joined[-1].append(stretch)
        else:
            joined.append([stretch])
    return [Stretch(_num_steps(parts), parts[0].present, _middle(parts).kept) for parts in joined]


def _num_steps(stretches: Sequence[Stretch]) -> int:
    return sum(stretch.num_steps for stretch in stretches)


def _middle(stretches: Sequence[Stretch]) -> Stretch:
    left = _num_steps(stretches) / 2
    for stretch in stretches:
        left -= stretch.num_steps
        if left <= 0:
            return stretch
    return stretches[-1]


def chosen_points(places: Sequence[Stretch], num_points: int) -> list[Stretch]:
    """Where to measure: the first plateau, the last, and some in between, evenly spaced; at most so many, in order."""
    last = len(places) - 1
    indices = sorted({round(i * last / (num_points - 1)) for i in range(num_points)})
    return [places[i] for i in indices]


@dataclass(frozen=True)
class Way:
    """A whole course, and the places of it that are measured with compaction, by name."""

    stretches: list[Stretch]
    points: dict[str, Stretch]

    @property
    def places(self) -> dict[str, Stretch]:
        """Every place that an arm of ours is held at."""
        first, last = self.stretches[0], self.stretches[-1]
        return {START: first, **self.points, MASKED: Stretch(0, first.present, last.kept)}


def way_of(settings: BenchSettings) -> Way:
    """Choose what to measure."""
    rounding = {"multiple": settings.multiple, "threshold": settings.compaction_threshold}
    stretches = course(settings.full, settings.target, settings.schedule, **rounding)
    full_macs = encoder_macs(settings.full, settings.length)
    points = chosen_points(plateaus(stretches), settings.points)
    names = (f"ours, {encoder_macs(point.present, settings.length) / full_macs:.0%} of MACs" for point in points)
    return Way(stretches, dict(zip(names, points, strict=True)))


def macs_and_steps(stretches: Sequence[Stretch], length: int, *, masked: bool = False) -> Iterator[tuple[int, int]]:
    """Encoder MACs a token and number of steps, by the parameters or by what the masks leave."""
    for stretch in stretches:
        yield encoder_macs(stretch.kept if masked else stretch.present, length), stretch.num_steps


def total_seconds(macs_and_steps: Sequence[tuple[int, int]], measured: Mapping[int, float]) -> float:
    """Add up steps; what was not measured lies on a straight line between its neighbours in MACs (nearest outside)."""
    if not macs_and_steps:
        return 0.0
    macs, num_steps = zip(*macs_and_steps, strict=True)
    known = sorted(measured)
    return float(np.dot(num_steps, np.interp(macs, known, [measured[value] for value in known])))


def whole_schedule(
    settings: BenchSettings, way: Way, seconds: Mapping[str, Sequence[float]], pruning: Mapping[str, Any]
) -> dict[str, Any]:
    """Add up all steps of the run; every round of turns gives one value of each sum.

    Args:
        settings: of the benchmark.
        way: what was measured, and what for.
        seconds: arm → seconds of its timed steps.
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
            "speedups": {other: ratios(totals[other], values) for other in totals if other != name},
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
    return times[START] * _num_steps(free) + total_seconds(masked, measured)


def _pruning_seconds(way: Way, pruning: Mapping[str, Any], length: int) -> dict[str, Any]:
    macs = {name: encoder_macs(point.present, length) for name, point in way.points.items()}

    def seconds_of(what: str) -> dict[int, float]:
        return {macs[name]: costs[what] for name, costs in pruning.items() if what in costs}

    # Masks change where a stretch ends, parameters where a plateau does; the last ones end with the run.
    changes = [(value, 1) for value, _ in macs_and_steps(way.stretches[:-1], length)]
    removals = [(value, 1) for value, _ in macs_and_steps(plateaus(way.stretches)[:-1], length)]
    steps = list(macs_and_steps(way.stretches, length))
    return {
        "scores_and_masks_seconds": total_seconds(steps, seconds_of("scores_and_masks_seconds")),
        "num_choices": len(changes),
        "choices_seconds": total_seconds(changes, seconds_of("choice_seconds")),
        "num_compactions": len(removals),
        "compactions_seconds": total_seconds(removals, seconds_of("compaction_seconds")),
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of repeated measurements, and all of them."""
    q1, median, q3 = quartiles(values)
    return {"median": median, "q1": q1, "q3": q3, "values": list(values)}


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """How often as fast, round by round."""
    return summary([theirs / own for theirs, own in zip(slow, fast, strict=True)])
