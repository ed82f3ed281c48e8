"""One benchmark from settings to numbers: builds the variants, interleaves their steps, adds up the whole schedule."""

import statistics
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed import variants
from benchmarks.speed.interleaved import GatedRun, Interleaved, interleave, on_one_memory_node
from benchmarks.speed.limits import LimitProbe, StepShape
from benchmarks.speed.profiles import PARTS, device_seconds, part_seconds, peak_bytes
from benchmarks.speed.settings import DTYPES, BenchSettings, make_workload
from benchmarks.speed.whole_run import (
    LOOPS,
    ONE_SHOT,
    PLAIN,
    START,
    STRONG,
    Stretch,
    Way,
    ratios,
    summary,
    way_of,
    whole_schedule,
)
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import WidthPlan

_PROFILED_STEPS = 3
_UNTIMED_STEPS = 2 * _PROFILED_STEPS + 8
_INSTANCE = " #"


def run_bench(settings: BenchSettings) -> dict[str, Any]:
    """Measure; JSON values `machine`, `settings`, `losses`, `variants`, `limits`, `pruning`, `schedule`."""
    way = way_of(settings)
    with profile(activities=[ProfilerActivity.CPU]):
        pass  # the first session must be this thread's
    pinned = on_one_memory_node() if settings.device == "cuda" else nullcontext([])
    with pinned as cores, tempfile.TemporaryDirectory() as folder:
        runs = _start(settings, way, Path(folder))
        try:
            results = _measure(settings, way, runs)
        finally:
            for run in runs.values():
                run.close()
    results["machine"] |= {"pinned_to_cores": cores} if cores else {}
    return results


def _start(settings: BenchSettings, way: Way, folder: Path) -> dict[str, GatedRun]:
    """Start the trainers of each variant; the first has the variant's name, others have a number behind it."""
    work = make_workload(settings, num_steps=settings.warmup_rounds + settings.rounds + _UNTIMED_STEPS)
    runs: dict[str, GatedRun] = {}
    for instance in range(settings.instances):
        suffix = f"{_INSTANCE}{instance + 1}" if instance else ""
        for number, (place_name, place) in enumerate(way.places.items()):
            trainer = variants.our_trainer(settings, work, place, folder / f"{number}{suffix}")
            if runs:
                variants.share_teacher(trainer, runs[START].trainer)
            runs[place_name + suffix] = GatedRun(place_name + suffix, trainer)
        if settings.with_baselines:
            baselines = {STRONG: variants.strong_loop, PLAIN: variants.plain_loop, ONE_SHOT: variants.one_shot_trainer}
            for name, make in baselines.items():
                runs[name + suffix] = GatedRun(name + suffix, make(settings, work, folder / (name + suffix)))
    return runs


def _measure(settings: BenchSettings, way: Way, runs: dict[str, GatedRun]) -> dict[str, Any]:
    losses = _first_losses(runs)
    instances: dict[str, list[str]] = {}
    for name, run in runs.items():
        variant, _, _ = name.partition(_INSTANCE)
        instances.setdefault(variant, []).append(name)
        if variant in LOOPS:
            run.trainer.prune_to(settings.target)  # its masks are multiplied from here on
    probes = {f"limit, {name}": _probe(settings, place) for name, place in way.places.items()}
    participants: dict[str, Interleaved] = {**runs, **probes}
    timed = interleave(participants, rounds=settings.rounds, warmup_rounds=settings.warmup_rounds)
    # a round's time of a variant is the mean over its trainers
    seconds = {
        variant: [statistics.mean(values) for values in zip(*(timed[name] for name in names), strict=True)]
        for variant, names in instances.items()
    }
    rates = {name: probe.flops_per_second[settings.warmup_rounds :] for name, probe in probes.items()}
    results: dict[str, Any] = {
        "machine": machine_facts(),
        "settings": asdict(settings),
        "losses": losses,
        "variants": {},
    }
    # whose products are as wide: the loops' as the teacher's, whatever their masks keep
    alike = {ONE_SHOT: list(way.places)[-1], **dict.fromkeys(LOOPS, START)}
    for name, names in instances.items():
        run = runs[name]
        place = way.places.get(name, Stretch(0, settings.target))
        useful = settings.accumulation_steps * step_shape(settings, place.plan).useful_flops
        limits = rates[f"limit, {alike.get(name, name)}"]
        results["variants"][name] = {
            "plan": place.plan.to_dict(),
            "encoder_macs": encoder_macs(place.plan, settings.length),
            "step_seconds": summary(seconds[name]),
            "instance_seconds": [statistics.median(timed[one]) for one in names],
            "device_seconds": _median_device_seconds(run),
            "tokens_per_second": summary([settings.num_tokens / value for value in seconds[name]]),
            "speedups": {loop: ratios(seconds[loop], seconds[name]) for loop in LOOPS if loop in seconds},
            "useful_flops_fraction": ratios([useful / own for own in seconds[name]], limits),
            "peak_memory_bytes": peak_bytes(run),
            "part_seconds": _median_parts(run),
        }
    results["limits"] = {name: summary(values) for name, values in rates.items()}
    results["pruning"] = _pruning_costs(runs, way, results["variants"])
    results["schedule"] = whole_schedule(settings, way, seconds, results["pruning"])
    return results


def _first_losses(runs: Mapping[str, GatedRun]) -> dict[str, dict[str, float]]:
    """Every term at the first step, of the variants that start with the same weights and widths."""
    found = {}
    for name, run in runs.items():
        run.advance()
        if name in (START, *LOOPS):
            (entry,) = run.trainer.state.log_history
            found[name] = {key: value for key, value in entry.items() if key.startswith("loss")}
    return found


def _probe(settings: BenchSettings, place: Stretch) -> LimitProbe:
    shape = step_shape(settings, place.plan)
    return LimitProbe(shape, dtype=DTYPES[settings.dtype], device=torch.device(settings.device))


def step_shape(settings: BenchSettings, student: WidthPlan) -> StepShape:
    """The products of a batch with a student of these widths."""
    num_tokens = settings.batch_size * settings.length
    num_predictions = round(settings.mlm_probability * num_tokens)
    return StepShape(settings.full, student, settings.config.vocab_size, num_tokens, num_predictions, settings.length)


def _median_parts(run: GatedRun) -> dict[str, float]:
    steps = [part_seconds(run) for _ in range(_PROFILED_STEPS)]
    return {part: statistics.median(step[part] for step in steps) for part in PARTS}


def _median_device_seconds(run: GatedRun) -> float | None:
    """Seconds of a step in which the GPU worked; None on a CPU."""
    if run.trainer.args.device.type != "cuda":
        return None
    return statistics.median(device_seconds(run) for _ in range(_PROFILED_STEPS))


def _pruning_costs(runs: Mapping[str, GatedRun], way: Way, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What pruning costs at every place, in seconds: a step's scores, and the choice of masks that ends the place."""
    following = dict(pairwise(stretch.plan for stretch in way.stretches))
    costs = {}
    for name, place in way.places.items():
        parts = facts[name]["part_seconds"]
        share = (parts["scores"] + parts["masks"]) / sum(parts.values())
        costs[name] = {"scores_seconds": share * facts[name]["step_seconds"]["median"]}
        if place.plan in following:
            costs[name]["choice_seconds"] = variants.choice_seconds(runs[name].trainer, following[place.plan])
    for name in {START, ONE_SHOT} & runs.keys():
        costs.setdefault(name, {})["start_seconds"] = runs[name].trainer.start_seconds
    return costs
