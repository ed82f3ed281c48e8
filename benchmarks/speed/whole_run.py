"""The widths that a student passes on its way to a plan, the places that are measured, and sums over all steps.

Under local allocation widths depend on nothing but the schedule, the target and the static cost model, so the whole
course is known without training: [`course`] repeats what `Pruner.step` decides.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.speed.settings import BenchSettings
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.plans.latency import quartiles
from homodistil_hf.pruning.masks import scheduled_plan
from homodistil_hf.pruning.schedule import PruningSchedule

START, FULL_WIDTH = "ours, start", "ours, never narrower"
STRONG, PLAIN, ONE_SHOT = "strong loop", "plain loop", "one-shot"
LOOPS = (STRONG, PLAIN)
BASELINES = (*LOOPS, ONE_SHOT)
"""The baselines of our trainer; the loops keep their widths, one-shot pruning has the plan's from the start."""


@dataclass(frozen=True)
class Stretch:
    """Steps in a row that see the same widths."""

    num_steps: int
    plan: WidthPlan


def course(full: WidthPlan, target: WidthPlan, schedule: PruningSchedule, *, multiple: int = 8) -> list[Stretch]:
    """The widths of every step of a run, from those of the teacher to those of the plan."""
    stretches: list[Stretch] = []
    plan = full
    is_reached = full == target
    for step in range(1, schedule.total_steps + 1):
        if stretches and stretches[-1].plan == plan:
            stretches[-1] = replace(stretches[-1], num_steps=stretches[-1].num_steps + 1)
        else:
            stretches.append(Stretch(1, plan))
        if not is_reached and schedule.is_due(step):
            progress = schedule.progress(step)
            plan = scheduled_plan(full, target, progress=progress, kept=plan, multiple=multiple)
            is_reached = progress == 1
    return stretches


def chosen_points(stretches: Sequence[Stretch], num_points: int, length: int) -> list[Stretch]:
    """Where to measure: the first widths, the last, and some between, evenly by the logarithm of MACs; in order."""
    macs = np.log([encoder_macs(stretch.plan, length) for stretch in stretches])
    wanted = np.linspace(macs[0], macs[-1], num_points)
    return [stretches[i] for i in sorted({int(np.abs(macs - value).argmin()) for value in wanted})]


@dataclass(frozen=True)
class Way:
    """A whole course, and the places of it that are measured, by name."""

    stretches: list[Stretch]
    places: dict[str, Stretch]


def way_of(settings: BenchSettings) -> Way:
    """Choose what to measure."""
    stretches = course(settings.full, settings.target, settings.schedule, multiple=settings.multiple)
    full_macs = encoder_macs(settings.full, settings.length)
    first, *others = chosen_points(stretches, settings.points, settings.length)
    names = [f"ours, {encoder_macs(place.plan, settings.length) / full_macs:.0%} of MACs" for place in others]
    return Way(stretches, {START: first, **dict(zip(names, others, strict=True))})


def macs_and_steps(stretches: Sequence[Stretch], length: int) -> list[tuple[int, int]]:
    """Encoder MACs a token and number of steps."""
    return [(encoder_macs(stretch.plan, length), stretch.num_steps) for stretch in stretches]


def mean_cost(stretches: Sequence[Stretch], length: int) -> float:
    """The student's encoder MACs, averaged over all steps, as a share of those at the first one."""
    costs = macs_and_steps(stretches, length)
    return sum(macs * steps for macs, steps in costs) / sum(steps for _, steps in costs) / costs[0][0]


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
    """Add up all steps of the run; every round gives one value of each sum.

    Args:
        settings: of the benchmark.
        way: what was measured, and what for.
        seconds: variant → seconds of its timed steps.
        pruning: place → what pruning costs there, in seconds; of the first place and of one-shot pruning also what it
            does before the first step.

    Returns:
        `dict` of JSON values: `pruning`, and for every variant `seconds`, `tokens_per_second` and `speedups`.
    """
    extra = _pruning_seconds(way, pruning, settings.length)
    rounds = [{name: values[number] for name, values in seconds.items()} for number in range(settings.rounds)]
    before = {name: costs.get("start_seconds", 0.0) for name, costs in pruning.items()}
    once = before[START] + extra["choices_seconds"]
    totals = {
        "ours": [once + _seconds_of_steps(way, times, settings.length) for times in rounds],
        FULL_WIDTH: [settings.max_steps * times[START] for times in rounds],
    }
    for name in BASELINES:
        if name in seconds:
            totals[name] = [before.get(name, 0.0) + settings.max_steps * times[name] for times in rounds]
    num_tokens = settings.max_steps * settings.num_tokens
    spent = once + extra["scores_seconds"]
    schedule: dict[str, Any] = {"pruning": extra | {"fraction": spent / statistics.median(totals["ours"])}}
    for name, values in totals.items():
        schedule[name] = {
            "seconds": summary(values),
            "tokens_per_second": summary([num_tokens / value for value in values]),
            "speedups": {other: ratios(totals[other], values) for other in totals if other != name},
        }
    return schedule


def _seconds_of_steps(way: Way, times: Mapping[str, float], length: int) -> float:
    measured = {encoder_macs(place.plan, length): times[name] for name, place in way.places.items()}
    return total_seconds(macs_and_steps(way.stretches, length), measured)


def _pruning_seconds(way: Way, pruning: Mapping[str, Any], length: int) -> dict[str, Any]:
    def seconds_of(what: str) -> dict[int, float]:
        costs = {name: pruning[name][what] for name in way.places if what in pruning.get(name, {})}
        return {encoder_macs(way.places[name].plan, length): value for name, value in costs.items()}

    steps = macs_and_steps(way.stretches, length)
    choices = [(macs, 1) for macs, _ in steps[:-1]]  # where a stretch ends, but for the run's end
    return {
        "scores_seconds": total_seconds(steps, seconds_of("scores_seconds")),
        "num_choices": len(choices),
        "choices_seconds": total_seconds(choices, seconds_of("choice_seconds")),
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles of repeated measurements, and all of them."""
    q1, median, q3 = quartiles(values)
    return {"median": median, "q1": q1, "q3": q3, "values": list(values)}


def ratios(slow: Sequence[float], fast: Sequence[float]) -> dict[str, Any]:
    """How often as fast, round by round."""
    return summary([theirs / own for theirs, own in zip(slow, fast, strict=True)])
