"""Write the figures of docs/performance.md and docs/latency.md from the JSON files in docs/results/.

    python -m benchmarks.speed.page

Figures stand between markers; the rest of both pages is written by hand.
"""

import json
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.marked_pages import fill_in
from benchmarks.speed.bench import GROWTH, SHIPPED
from benchmarks.speed.growth import format_growth
from benchmarks.speed.measure import step_shape
from benchmarks.speed.profiles import PARTS
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench, spread, table
from benchmarks.speed.whole_run import BASELINES, FULL_WIDTH, LOOPS, ONE_SHOT, PLAIN, START, STRONG, mean_cost, way_of
from homodistil_hf.tables import markdown_table

DOCS = Path("docs")
RESULTS = Path("docs/results")
TEACHER, STUDENT = "bert-base", "homobert-tiny"
BASE = "bert-base-bfloat16"
NOT_COMPILED = """\
Compiled, not measured on a GPU since layers share their code: `python -m benchmarks.speed.bench --cases gpu-1024`.\
"""


class Goal(NamedTuple):
    """What was aimed at, what was measured, and whether that is enough."""

    figure: str
    goal: str
    measured: str
    is_met: bool


def main(docs: Path = DOCS) -> None:
    speed, latency = read("speed.json"), read("latency.json")
    growth = speed.pop(GROWTH)
    on_gpu = {name: speed.pop(name) for name in list(speed) if name.startswith("gpu-")}
    performance = {
        "answer": answer(speed[SHIPPED]),
        "goals": goals(speed, growth, latency),
        "narrowing": why_narrowing_gains_less(speed[BASE]),
        "compiling": compiling(read("compiling.json")),
        "types": number_types(read("number_types.json")),
        "waiting": waiting(read("waiting.json")["median_step_s"]),
        "start": until_an_answer(read("start.json")["cpu_s"]),
        "shipped": shipped(speed[SHIPPED]),
        "cases": cases({name: results for name, results in speed.items() if name != SHIPPED}),
        "operations": operations(read("operations.json")),
        "growth": format_growth(growth | {"vocab_sizes": growth["vocab_sizes"][1::2]}),  # with more predictions
        "gpu": gpu_cases(on_gpu),
    }
    fill_in(docs / "performance.md", performance)
    fill_in(docs / "latency.md", {"figures": latencies(latency)})


def operations(record: Mapping[str, Any]) -> str:
    """Launches of a step by variant."""
    counts = record["counts"]
    parts = [part for part in PARTS if any(part in of["launches"] for of in counts.values())]
    rows = [[part, *(f"{of['launches'].get(part, 0):,}" for of in counts.values())] for part in parts]
    rows.append(["**launches**", *(f"**{sum(of['launches'].values()):,}**" for of in counts.values())])
    rows += [[name, *(f"{of[name]:,}" for of in counts.values())] for name in ("casts", "waits")]
    return "\n".join(markdown_table(["", *counts], rows))


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


# Speed


def answer(results: Mapping[str, Any]) -> str:
    """What a reader came for."""
    settings, machine, ours = results["settings"], results["machine"], results["schedule"]["ours"]
    beside = [f"{ours['speedups'][loop]['median']:.1f} × the {loop}" for loop in LOOPS]
    wall = results["schedule"][ONE_SHOT]["speedups"]["ours"]["median"]
    beside.append(f"{wall:.2f} × the wall clock of one-shot pruning at as many steps")
    return wrapped(
        f"**On {machine['num_cores']} cores ({machine['processor']}), in bfloat16, a run of {settings['max_steps']:,} "
        f"steps from a teacher of 6 layers × 384 to {settings['student']}, pruned over the "
        f"first {settings['pruning_end_fraction']:.0%} of them, takes in {ours['tokens_per_second']['median']:,.0f} "
        f"tokens a second: {', '.join(beside)}.**"
    )


def goals(speed: Mapping[str, Any], growth: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """What was aimed at, and what was measured: what was missed first."""
    found = baseline_goals(speed[SHIPPED])
    for size, name in (("1/8", "eighth"), ("1/16", "sixteenth")):
        if deeper := speed.get(f"{SHIPPED}-{name}"):
            found.append(loop_goal(deeper, STRONG, 2.0, f"{STRONG}, at {size}"))
    found += [*base_goals(speed[BASE]), *pruning_goals(speed)]
    largest = list(growth["batch_sizes"].values())[-1]["relative_speed"]
    label, goal = "tokens/s at batch 128, of those at 16", "≥ 0.95"
    found.append(Goal(label, goal, spread(largest, "{:.2f}"), largest["median"] >= 0.95))
    place = {"backend": "onnxruntime", "batch_size": 1, "length": 128}
    fast = next(cell for cell in latency["cells"] if place.items() <= cell.items())["speed_up"][STUDENT]
    label = "latency of homobert-tiny's encoder, ONNX Runtime, float32, 1 × 128, BERT-base's median by its own"
    measured = f"{fast['ratio']:.1f}× ({fast['lower_quartile']:.1f}–{fast['upper_quartile']:.1f})"
    found.append(Goal(label, "≥ 7×", measured, fast["ratio"] >= 7))
    lists = []
    for title, is_met in (("Missed", False), ("Met", True)):
        lines = [f"- {one.figure}: {one.measured}; goal {one.goal}" for one in found if one.is_met == is_met]
        lists.append("\n".join([f"**{title}**, median (quartiles):\n", *map(wrapped, lines)]))
    return "\n\n".join(lists)


def baseline_goals(results: Mapping[str, Any]) -> list[Goal]:
    """Against the loops and against one-shot pruning."""
    found = [loop_goal(results, STRONG, 2.0, f"{STRONG}, at 1/4"), loop_goal(results, PLAIN, 5.0, PLAIN)]
    ratio = results["schedule"][ONE_SHOT]["speedups"]["ours"]
    label = "wall clock of a whole run, of one-shot pruning's at as many steps"
    return [*found, Goal(label, "≤ 1.03", spread(ratio, "{:.3f}"), ratio["median"] <= 1.03)]


def loop_goal(results: Mapping[str, Any], loop: str, goal: float, words: str) -> Goal:
    """The whole schedule against one of the loops."""
    ratio = results["schedule"]["ours"]["speedups"][loop]
    return Goal(f"whole schedule, × the {words}", f"≥ {goal:g}×", spread(ratio, "{:.2f}×"), ratio["median"] >= goal)


def base_goals(results: Mapping[str, Any]) -> list[Goal]:
    """BERT-base's shapes."""
    start, gained = results["variants"][START], results["schedule"]["ours"]["speedups"][FULL_WIDTH]
    share, ceiling = start["useful_flops_fraction"], narrowing_ceiling(results)
    memory = start["peak_memory_bytes"] / results["variants"][PLAIN]["peak_memory_bytes"]
    narrowing, goal = "whole schedule from BERT-base to homobert-tiny, × a student that stays as wide", "≥ 2.2×"
    flops = "useful FLOPs at BERT-base shapes, kept fraction 1, of the matrix products' limit"
    return [
        Goal(narrowing, f"{goal} (ceiling {ceiling:.2f}×)", spread(gained, "{:.2f}×"), gained["median"] >= 2.2),
        Goal(flops, "≥ 60 %", spread(share, "{:.0%}"), share["median"] >= 0.6),
        Goal("peak memory at BERT-base shapes, of the plain loop's", "≤ 1/3", f"{memory:.2f}", memory <= 1 / 3),
    ]


def pruning_goals(speed: Mapping[str, Any]) -> list[Goal]:
    """Scores, choices of masks and slicing."""
    found = []
    for name in SHIPPED, BASE:
        whole, largest = speed[name]["schedule"]["pruning"]["fraction"], pruning_share(speed[name])
        measured = f"{whole:.1%} (while pruning, at its largest, {largest:.1%})"
        label = f"scores, choices of masks and slicing, share of the run, {name}"
        found.append(Goal(label, "≤ 3%", measured, whole <= 0.03))
    return found


def narrowing_ceiling(results: Mapping[str, Any]) -> float:
    """What a narrower student would gain if every useful multiplication took the same time and nothing else took any.

    The teacher's forward pass, heads at masked positions and projections are in it.
    """
    settings = BenchSettings(**results["settings"])
    stretches = way_of(settings).stretches
    narrowing = sum(stretch.num_steps * step_shape(settings, stretch.plan).useful_flops for stretch in stretches)
    return settings.max_steps * step_shape(settings, settings.full).useful_flops / narrowing


def why_narrowing_gains_less(results: Mapping[str, Any]) -> str:
    """What keeps a run below that ceiling, from the profile."""
    ours = {name: variant for name, variant in results["variants"].items() if name not in BASELINES}
    last_name, last = list(ours.items())[-1]
    shares = {part: seconds / sum(last["part_seconds"].values()) for part, seconds in last["part_seconds"].items()}
    gain = results["schedule"]["ours"]["speedups"][FULL_WIDTH]["median"]
    ceiling, settings = narrowing_ceiling(results), BenchSettings(**results["settings"])
    return wrapped(
        "**What narrower students gain.** On the way from BERT-base to homobert-tiny the student's mean cost is "
        f"{mean_cost(way_of(settings).stretches, settings.length):.0%} of the unpruned one's, in encoder MACs. The "
        "ceiling of the whole step counts every useful multiplication alike, the teacher's among them. Of "
        f"{ceiling:.2f}×, {gain:.2f}× are reached ({gain / ceiling:.0%}). The profile of the last place ({last_name}) "
        f"says why: the teacher takes {shares['teacher']:.0%} of that step, the student's forward pass "
        f"{shares['student']:.0%}, losses {shares['losses']:.0%}, backward {shares['backward']:.0%}; useful FLOPs "
        f"reach {last['useful_flops_fraction']['median']:.0%} of the limit there and "
        f"{ours[START]['useful_flops_fraction']['median']:.0%} at the start, as "
        "what is no matrix product hardly shrinks."
    )


def pruning_share(results: Mapping[str, Any]) -> float:
    """Of all places: scores in every step, choices of masks and slicing spread over all steps."""
    extra, schedule = results["schedule"]["pruning"], results["schedule"]["ours"]["seconds"]["median"]
    shares = [
        (variant["part_seconds"]["scores"] + variant["part_seconds"]["masks"]) / sum(variant["part_seconds"].values())
        for name, variant in results["variants"].items()
        if name not in BASELINES
    ]
    return max(shares) + extra["choices_seconds"] / schedule


def number_types(found: Mapping[str, Any]) -> str:
    """The teacher's number types, and odd widths."""
    exact, *others = found["teacher"].values()
    names = list(found["teacher"])[1:]
    points = [
        f"- The teacher with {name}: a pass takes {one['median_s'] / exact['median_s']:.2f} of float32's time, its "
        f"predictions are {one['kl']:.4f} nats from its own, {one['agreement']:.1%} of the first choices equal."
        for name, one in zip(names, others, strict=True)
    ]
    (even_name, even), (name, odd), *_ = found["widths"].items()
    points.append(
        f"- Odd widths: {name} channels take "
        f"{odd['median_s'] / even['median_s']:.2f} of the time of {even_name}, with "
        f"{odd['channels'] / even['channels']:.2f} of the channels."
    )
    return "\n".join(map(wrapped, points))


def compiling(found: Mapping[str, Any]) -> str:
    """What was compiled on the way through many widths."""
    compilations, num_layers = found["compilations"], found["shape"]["num_hidden_layers"]
    return wrapped(
        f"- A run of {len(compilations)} steps on the way from {num_layers} layers to a tenth of their MACs, "
        f"{found['num_widths']} widths: {found['graphs'][-1]} graphs, the last compiled at step "
        f"{compilations.index(compilations[-1]) + 1} (`python -m benchmarks.speed.compiling`)."
    )


def wrapped(text: str) -> str:
    return textwrap.fill(text, 118, subsequent_indent="  " * text.startswith("- "))


def waiting(steps: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """What it costs when threads that wait sleep at once."""
    quiet, busy = (
        statistics.median(found["PASSIVE"]) / statistics.median(found["default"])
        for found in (steps["teacher6x384, quiet"], steps["teacher6x384, busy"])
    )
    return wrapped(
        "- **Threads that sleep while they wait**: the command line sets `OMP_WAIT_POLICY=PASSIVE`. On 2 quiet cores "
        f"a step of 6 × 384 then takes {quiet:.2f} of the default's time, beside a busy process {busy:.2f} "
        "(`benchmarks/speed/waiting.py` at commit 2188ea60). Scripts set it before they import torch."
    )


def until_an_answer(cpu_s: Mapping[str, Mapping[str, float]]) -> str:
    """Processor time of commands, as they are now, and of the imports that they need."""
    now = {name.removesuffix(", now"): found for name, found in cpu_s.items() if not name.endswith(", before")}
    for part in ("import torch", "import transformers"):
        del now[part]  # the whole, BertConfig, stands in the table
    rows = [(name, "{median:.2f} ({lowest:.2f}–{highest:.2f})".format(**found)) for name, found in now.items()]
    return table(("what", "processor time, s: median (lowest–highest)"), rows)


def shipped(results: Mapping[str, Any]) -> str:
    """One case: its whole schedule, and the chart of a step's parts; the record and `make bench` have more tables."""
    title, *_, rest, pruning, _ = format_bench(results).split("\n\n")
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items() if not isinstance(value, dict))
    chart = f"![share of each part of a step](results/speed-{SHIPPED}.png)"
    return "\n\n".join([wrapped(f"{title}. {results['date']}; {machine}."), rest, pruning, chart])


def cases(speed: Mapping[str, Any]) -> str:
    """The whole schedule of further cases, a line each."""
    rows = []
    for name, results in speed.items():
        whole = results["schedule"]["ours"]
        ratios = [spread(whole["speedups"].get(other), "{:.2f}") for other in BASELINES]
        rows.append((name, spread(whole["tokens_per_second"], "{:,.0f}"), *ratios))
    return table(("case", "tokens/s", *(f"× {name}" for name in BASELINES)), rows)


def gpu_cases(speed: Mapping[str, Any]) -> str:
    """Cases of a GPU, and whether compiled ones are among them."""
    parts = [NOT_COMPILED] if not any(results["settings"]["compiled"] for results in speed.values()) else []
    for results in list(speed.values())[:1]:
        shares = ", ".join(
            f"{variant['useful_flops_fraction']['median']:.0%}"
            for name, variant in results["variants"].items()
            if name not in BASELINES
        )
        size, gpu = results["settings"]["batch_size"], results["machine"].get("gpu")
        words = (
            f"BERT-base to homobert-tiny, {size} rows a step, bfloat16, {gpu}. Useful FLOPs, from the widest steps to "
        )
        words += f"the narrowest: {shares} of the limit."
        if strong := results["variants"].get(STRONG):
            share = strong["part_seconds"]["masks"] / sum(strong["part_seconds"].values())
            words += f" Of a step of the strong loop, masks took {share:.0%}."
        parts[:0] = [wrapped(words), cases(speed)]
    return "\n\n".join(parts)


# Latency


def latencies(results: Mapping[str, Any]) -> str:
    """Tables of what was recorded."""
    machine = results["machine"]
    versions = machine["versions"]
    cells = [cell_of(cell) for cell in results["cells"] if cell["length"] >= 128]  # the record has 16, too
    headings = ["backend", "batch", "length", f"{TEACHER}, ms", f"{STUDENT}, ms", "speed-up"]
    lines = [
        f"{machine['processor']}, {machine['num_threads']} threads of {machine['num_cores']} cores, torch "
        f"{versions['torch']}, onnxruntime {versions['onnxruntime']}; other work took part of both models' time.",
        "",
        *markdown_table(headings, cells),
        "",
        "ONNX Runtime at batch 1, length 128 on one core, by **processor time**:",
        "",
        one_core_line(results["one_core"]),
    ]
    return "\n".join(lines)


def cell_of(cell: Mapping[str, Any]) -> list[str]:
    place = [str(cell[name]) for name in ("backend", "batch_size", "length")]
    if "skipped" in cell:
        return [*place, cell["skipped"], "", ""]
    medians = [f"{cell['latency'][name]['median_ms']:.2f}" for name in (TEACHER, STUDENT)]
    ratio = cell["speed_up"][STUDENT]
    return [*place, *medians, f"{ratio['ratio']:.2f}×"]


def one_core_line(one_core: Mapping[str, Any]) -> str:
    times = one_core["processor_time"]
    ratio = one_core["speed_up"][STUDENT]
    return (
        f"{TEACHER} {times[TEACHER]['median_ms']:.2f} ms, {STUDENT} {times[STUDENT]['median_ms']:.2f} ms: "
        f"**{ratio['ratio']:.2f}×** ({ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f})"
    )


if __name__ == "__main__":
    main()
