"""One benchmark from settings to numbers: builds the arms, lets them take turns, adds up the whole schedule."""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from ..cost import encoder_macs
from ..latency.machine import machine_facts
from ..trainer import HomoDistilTrainer
from . import arms
from .course import Stretch, chosen_points, course, macs_and_steps, plateaus, total_seconds
from .gates import Arm, GatedRun, interleave
from .limits import LimitProbe, StepShape
from .profiles import PARTS, part_seconds, peak_bytes
from .settings import DTYPES, BenchSettings, Workload, make_workload

REFERENCE, START, MASKED = "reference", "ours, start", "ours, all masked"
_EXTRA_STEPS = 8
_PROFILED_STEPS = 3


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


def run_bench(settings: BenchSettings) -> dict[str, Any]:
    """Measure.

    Args:
        settings: of the benchmark.

    Returns:
        `dict` of JSON values: `machine`, `settings`, `losses`, `arms`, `limits`, `pruning`, `schedule`.
    """
    way = way_of(settings)
    work = make_workload(settings, num_steps=settings.warmup_rounds + settings.rounds + _PROFILED_STEPS + _EXTRA_STEPS)
    with profile(activities=[ProfilerActivity.CPU]):
        pass  # the first session must be this thread's
    with tempfile.TemporaryDirectory() as folder:
        runs = _start(settings, work, way, Path(folder))
        try:
            return _measure(settings, way, runs)
        finally:
            for run in runs.values():
                run.close()


def _start(settings: BenchSettings, work: Workload, way: Way, folder: Path) -> dict[str, GatedRun]:
    runs = {}
    first: HomoDistilTrainer | None = None
    for number, (name, place) in enumerate(way.places.items()):
        trainer = arms.our_trainer(settings, work, place, folder / str(number))
        if first is not None:
            arms.share_teacher(trainer, first)
        first = first or trainer
        runs[name] = GatedRun(name, trainer)
    if settings.with_reference:
        runs[REFERENCE] = GatedRun(REFERENCE, arms.reference_trainer(settings, work, folder / REFERENCE))
    return runs


def _measure(settings: BenchSettings, way: Way, runs: dict[str, GatedRun]) -> dict[str, Any]:
    losses = _first_losses(runs)
    if settings.with_reference:
        runs[REFERENCE].trainer.prune_to(settings.target)  # its masks are multiplied from here on
    probes = {f"limit, {name}": _probe(settings, place) for name, place in way.places.items() if name != MASKED}
    participants: dict[str, Arm] = {**runs, **probes}
    seconds = interleave(participants, rounds=settings.rounds, warmup_rounds=settings.warmup_rounds)
    results: dict[str, Any] = {"machine": machine_facts(), "settings": asdict(settings), "losses": losses, "arms": {}}
    for name, run in runs.items():
        place = way.places.get(name, Stretch(0, settings.full, settings.full))
        probe = probes.get(f"limit, {name}", probes[f"limit, {START}"])
        facts = _facts(settings, seconds[name], place)
        facts |= _ratio(seconds, name)
        facts["useful_flops_fraction"] = _flops_fraction(settings, seconds[name], place, probe)
        facts["peak_memory_bytes"] = peak_bytes(run)
        facts["part_seconds"] = _median_parts(run)
        results["arms"][name] = facts
    results["limits"] = {name: summary(p.flops_per_second[settings.warmup_rounds :]) for name, p in probes.items()}
    results["pruning"] = _pruning_costs(runs, way)
    results["schedule"] = _whole_schedule(settings, way, seconds, results["pruning"])
    return results


def _first_losses(runs: Mapping[str, GatedRun]) -> dict[str, dict[str, float]]:
    """Every term at the first step, of the arms that start with the same weights and no masks."""
    found = {}
    for name, run in runs.items():
        run.turn()
        if name in (START, REFERENCE):
            (entry,) = run.trainer.state.log_history
            found[name] = {key: value for key, value in entry.items() if key.startswith("loss")}
    return found


def _probe(settings: BenchSettings, place: Stretch) -> LimitProbe:
    return LimitProbe(_shape(settings, place), dtype=DTYPES[settings.dtype], device=torch.device(settings.device))


def _shape(settings: BenchSettings, place: Stretch) -> StepShape:
    num_tokens = settings.batch_size * settings.length
    return StepShape(settings.full, place.kept, settings.config.vocab_size, num_tokens, settings.length)


def _facts(settings: BenchSettings, seconds: Sequence[float], place: Stretch) -> dict[str, Any]:
    return {
        "present": place.present.to_dict(),
        "kept": place.kept.to_dict(),
        "encoder_macs": encoder_macs(place.present, settings.length),
        "step_seconds": summary(seconds),
        "tokens_per_second": summary([settings.num_tokens / value for value in seconds]),
    }


def _ratio(seconds: Mapping[str, Sequence[float]], name: str) -> dict[str, Any]:
    if REFERENCE not in seconds:
        return {}
    pairs = zip(seconds[REFERENCE], seconds[name], strict=True)
    return {"speedup": summary([reference / own for reference, own in pairs])}


def _flops_fraction(
    settings: BenchSettings, seconds: Sequence[float], place: Stretch, probe: LimitProbe
) -> dict[str, Any]:
    useful = settings.accumulation_steps * _shape(settings, place).useful_flops
    limits = probe.flops_per_second[settings.warmup_rounds :]
    return summary([useful / own / limit for own, limit in zip(seconds, limits, strict=True)])


def _median_parts(run: GatedRun) -> dict[str, float]:
    steps = [part_seconds(run) for _ in range(_PROFILED_STEPS)]
    return {part: statistics.median(step[part] for step in steps) for part in PARTS}


def _pruning_costs(runs: Mapping[str, GatedRun], way: Way) -> dict[str, Any]:
    """Seconds of a choice of masks and of a compaction, at every place on the way."""
    widths = [place.present for place in plateaus(way.stretches)]
    following = dict(pairwise(widths))
    costs = {}
    for name, point in way.points.items():
        trainer = runs[name].trainer
        costs[name] = {"choice_seconds": arms.choice_seconds(trainer)}
        if point.present in following:
            costs[name]["compaction_seconds"] = arms.compaction_seconds(trainer, following[point.present])
    return costs


def _whole_schedule(
    settings: BenchSettings, way: Way, seconds: Mapping[str, Sequence[float]], pruning: Mapping[str, Any]
) -> dict[str, Any]:
    """Seconds of all steps, and tokens a second, of every arm; each round of turns gives one value."""
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
    schedule: dict[str, Any] = {"pruning": extra}
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
    choices = {macs[name]: costs["choice_seconds"] for name, costs in pruning.items()}
    compactions = {
        macs[name]: costs["compaction_seconds"] for name, costs in pruning.items() if "compaction_seconds" in costs
    }
    # Masks change where a stretch ends, parameters where a plateau does; the last ones end with the run.
    changes = [(value, 1) for value, _ in macs_and_steps(way.stretches[:-1], length)]
    removals = [(value, 1) for value, _ in macs_and_steps(places[:-1], length)]
    return {
        "num_choices": len(changes),
        "choices_seconds": total_seconds(changes, choices),
        "num_compactions": len(removals),
        "compactions_seconds": total_seconds(removals, compactions),
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
    q1, median, q3 = (float(value) for value in np.percentile(values, [25, 50, 75]))
    return {"median": median, "q1": q1, "q3": q3, "values": list(values)}
