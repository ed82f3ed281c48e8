"""Write the figures of docs/performance.md and docs/latency.md from the JSON files in docs/results/.

    python -m benchmarks.speed.page

Figures stand between markers; the rest of both pages is written by hand.
"""

import json
import math
import statistics
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.marked_pages import fill_in
from benchmarks.speed.growth import format_growth
from benchmarks.speed.measure import step_shape
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench, spread, table
from benchmarks.speed.whole_run import FULL_WIDTH, START, mean_cost, way_of
from homodistil_hf.evaluation.latency import format_latencies
from homodistil_hf.training.setup import MOST_COMPILED_WIDTHS

DOCS = Path("docs")
RESULTS = Path("docs/results")
TEACHER, STUDENT = "bert-base", "homobert-tiny"
GONE = {"plain attention": "an attention of our own on CPUs", "activations kept": "activations computed again"}
GPU_MISSING = """\
Not measured: no CUDA device was at hand. `python -m benchmarks.speed.gpu` measures BERT-base with batches of
1,024–4,096 × 128 in bfloat16 with compiled teacher and student at seven places of the schedule, the share of the
device's measured matrix-product limit, and the hours of the whole recipe; the tests run it on a CPU with tiny sizes.\
"""


def main() -> None:
    speed, latency, ablation, core = (read(f"{name}.json") for name in ("speed", "latency", "speed-ablation", "core"))
    growth = speed.pop("growth")
    performance = {
        "answer": answer(speed),
        "goals": goals(speed, growth, latency),
        "narrowing": why_narrowing_gains_less(speed["bert-base-bfloat16"]),
        "compiling": compiling(core["compiling"], BenchSettings(**speed["bert-base-bfloat16"]["settings"])),
        "core": simplifications(core),
        "start": until_an_answer(read("start.json")["cpu_s"]),
        "ablation": worths(ablation["teacher6x384"]),
        "cases": "\n\n".join(case(name, results) for name, results in speed.items()),
        "growth": format_growth(growth),
        "latency": f"```text\n{format_latencies(latency)}\n```",
        "gpu": on_gpu(read("gpu_schedule.json")) if (RESULTS / "gpu_schedule.json").is_file() else GPU_MISSING,
    }
    fill_in(DOCS / "performance.md", performance)
    fill_in(DOCS / "latency.md", {"figures": latencies(latency)})


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


# Speed


def answer(speed: Mapping[str, Any]) -> str:
    """What a reader came for."""
    small, base = (speed[f"{shape}-bfloat16"] for shape in ("teacher6x384", "bert-base"))
    machine = small["machine"]
    rates = [
        f"{ours['tokens_per_second']['median']:,.0f} tokens a second, "
        f"{ours['speedups']['reference']['median']:.1f} × the"
        for ours in (one["schedule"]["ours"] for one in (small, base))
    ]
    shares = " and ".join(f"{one['schedule']['pruning']['fraction']:.1%}" for one in (small, base))
    return wrapped(
        f"**On {machine['num_cores']} cores ({machine['processor']}), in bfloat16, a run from a teacher of 6 layers × "
        f"384 to a quarter of its MACs takes in {rates[0]} rate of a careful `Trainer` subclass; one from BERT-base "
        f"to homobert-tiny {rates[1]} rate.** Scores, masks and slicing take {shares} of the time."
    )


def goals(speed: Mapping[str, Any], growth: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """What was aimed at, and what was measured."""
    small, base = speed["teacher6x384-bfloat16"], speed["bert-base-bfloat16"]
    start, reference = base["arms"][START], base["arms"]["reference"]
    largest = list(growth["batch_sizes"].values())[-1]
    place = {"backend": "onnxruntime", "batch_size": 1, "length": 128}
    cell = next(cell for cell in latency["cells"] if place.items() <= cell.items())
    fast = cell["speed_up"][STUDENT]
    gained = base["schedule"]["ours"]["speedups"][FULL_WIDTH]
    memory = start["peak_memory_bytes"] / reference["peak_memory_bytes"]
    text = f"""\
whole schedule to 1/4 of the 6-layer teacher's MACs, against the reference | ≥ 5× | \
{spread(small["schedule"]["ours"]["speedups"]["reference"], "{:.2f}×")}
whole schedule from BERT-base to homobert-tiny, against a student that stays as wide | \
≥ 2.2× (ceiling {narrowing_ceiling(base):.2f}×) | {spread(gained, "{:.2f}×")}
useful FLOPs at BERT-base shapes, kept fraction 1, of the matrix products' limit | ≥ 60 % | \
{spread(start["useful_flops_fraction"], "{:.0%}")}
peak memory at BERT-base shapes, of the reference's | ≤ 1/3 | {memory:.2f}
"""
    for name, results in speed.items():
        if "512" not in name and "attention" not in name:
            whole, goal = results["schedule"]["pruning"]["fraction"], "≤ 6 %" if "platon" in name else "≤ 3 %"
            text += f"scores, choices of masks and slicing, share of the run: {name} | {goal} | "
            text += f"{whole:.1%}; while pruning, at its largest {pruning_share(results):.1%}\n"
    text += f"""\
tokens/s at batch 128, of those at 16 | ≥ 0.95 | {spread(largest["relative_speed"], "{:.2f}")}
latency of homobert-tiny's encoder, ONNX Runtime, float32, 1 × 128, against BERT-base's | ≥ 7× | \
{fast["ratio"]:.1f}× ({fast["lower_quartile"]:.1f}–{fast["upper_quartile"]:.1f})
"""
    return table(("figure", "goal", "measured: median (quartiles)"), [line.split(" | ") for line in text.splitlines()])


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
    ours = {name: arm for name, arm in results["arms"].items() if name != "reference"}
    last_name, last = list(ours.items())[-1]
    shares = {part: seconds / sum(last["part_seconds"].values()) for part, seconds in last["part_seconds"].items()}
    gain = results["schedule"]["ours"]["speedups"][FULL_WIDTH]["median"]
    ceiling, settings = narrowing_ceiling(results), BenchSettings(**results["settings"])
    return wrapped(
        "**What narrower students gain.** On the way from BERT-base to homobert-tiny the student's mean cost is "
        f"{mean_cost(way_of(settings).stretches, settings.length):.0%} of the unpruned one's, in encoder MACs. The "
        "ceiling of the whole step counts every useful multiplication alike: the teacher's forward pass, which stays, "
        "heads at masked positions, and the projections, whose outputs keep the teacher's width. Of "
        f"{ceiling:.2f}×, {gain:.2f}× are reached ({gain / ceiling:.0%}). The profile of the last place ({last_name}) "
        f"says why: the teacher takes {shares['teacher']:.0%} of that step, the student's forward pass "
        f"{shares['student']:.0%}, losses {shares['losses']:.0%}, backward {shares['backward']:.0%}; useful FLOPs "
        f"reach {last['useful_flops_fraction']['median']:.0%} of the limit there and "
        f"{ours[START]['useful_flops_fraction']['median']:.0%} at the start. What is no matrix product (softmaxes "
        "over pairs of tokens, LayerNorms, the vocabulary's exponentials) does not shrink with the widths, or only by "
        "their first power."
    )


def pruning_share(results: Mapping[str, Any]) -> float:
    """Of all places: scores in every step, choices of masks and slicing spread over all steps."""
    extra, schedule = results["schedule"]["pruning"], results["schedule"]["ours"]["seconds"]["median"]
    shares = [
        (arm["part_seconds"]["scores"] + arm["part_seconds"]["masks"]) / sum(arm["part_seconds"].values())
        for name, arm in results["arms"].items()
        if name != "reference"
    ]
    return max(shares) + extra["choices_seconds"] / schedule


def compiling(found: Mapping[str, Any], settings: BenchSettings) -> str:
    """Why widths are compiled anew, at few moments."""
    static, dynamic = found["sizes"].values()
    a_width, again = (statistics.median(one["first_step_seconds"][1:]) for one in (static, dynamic))
    num_graphs = [", ".join(map(str, one["num_graphs"])) for one in (static, dynamic)]
    longest = settings.pruning_end_fraction * settings.max_steps
    grouped = replace(settings, pruning_interval_steps=math.ceil(longest / MOST_COMPILED_WIDTHS))
    costs = [mean_cost(way_of(one).stretches, settings.length) for one in (settings, grouped)]
    sentences = (
        f"- Two layers of 128 channels, one thread: the first step at a new width takes {a_width:.0f} s, any other "
        f"{static['step_seconds']['median']:.1f} s. Graphs that were compiled after the first step at each of "
        f"{len(static['num_graphs'])} widths: {num_graphs[0]}.",
        f"- Sizes marked as dynamic: {num_graphs[1]} graphs, and {again:.0f} s: stock LayerNorm and attention hold "
        "their sizes as plain numbers.",
        f"- {MOST_COMPILED_WIDTHS} moments raise the student's mean cost on the way from BERT-base to homobert-tiny "
        f"from {costs[0]:.1%} to {costs[1]:.1%} of the unpruned one's.",
    )
    return "\n".join(wrapped(sentence) for sentence in sentences)


def wrapped(text: str) -> str:
    return textwrap.fill(text, 118, subsequent_indent="  " * text.startswith("- "))


def until_an_answer(cpu_s: Mapping[str, Mapping[str, float]]) -> str:
    """Processor time of commands and of the imports that they need."""
    rows = [
        (name, f"{found['median']:.2f} ({found['lowest']:.2f}–{found['highest']:.2f})")
        for name, found in cpu_s.items()
    ]
    return table(("what", "processor time, s: median (lowest–highest)"), rows)


def simplifications(core: Mapping[str, Any]) -> str:
    """What the core was like before units were sliced off at every choice, and after."""
    rows, rates, memory = [], {}, {}
    for name, found in core["speed"].items():
        for moment, versions in found["moments"].items():
            before, after = versions["before"], versions["after"]
            label, pair = f"{name}, after {float(moment):.0%} of the steps", (before, after)
            old, new = (one["tokens_per_second"]["median"] for one in pair)
            rates[label], memory[label] = new / old, after["peak_memory_bytes"] / before["peak_memory_bytes"]
            rows.append(
                (
                    label,
                    *(spread(one["tokens_per_second"], "{:,.0f}") for one in pair),
                    f"{rates[label]:.2f}",
                    *(f"{one['scores_and_masks_share']['median']:.1%}" for one in pair),
                    *(megabytes(one["peak_memory_bytes"]) for one in pair),
                )
            )
    parts = ("tokens/s", "scores + masks", "peak memory")
    headings = [f"{part}, {version}" for part in parts for version in ("before", "after")]
    headings.insert(2, "after / before")
    where, most = max(memory.items(), key=lambda one: one[1])
    slow, least = min(rates.items(), key=lambda one: one[1])
    return "\n\n".join(
        [
            table(("case", *headings), rows),
            wrapped(
                "Activations are kept, and large batches no longer go through in parts, so the goals for peak memory "
                f"and for batches of 128 are missed. Memory rose most at {where}: {most:.1f} ×; the rate is lowest at "
                f"{slow}: {least:.2f} ×. Remedies: more `gradient_accumulation_steps` with smaller batches (the same "
                "losses and gradients), or `gradient_checkpointing` (about one more forward pass of the student)."
            ),
            same_run(core["run"]),
        ]
    )


def same_run(run: Mapping[str, Any]) -> str:
    """One run with both versions."""
    names = {"kl": "KL, nats", "mlm_loss": "masked-LM loss", "mlm_accuracy": "masked-LM accuracy"}
    rows = [
        (label, *(f"{run[version][name]:.4f}" for version in ("before", "after"))) for name, label in names.items()
    ]
    records = map(json.loads, (RESULTS / "methods_quarter.jsonl").read_text(encoding="utf-8").splitlines())
    seeds = [record["evaluation"]["kl"] for record in records if record["arm"] == "homodistil"]
    return (
        f"One run of {run['settings']['max_steps']} steps to a quarter of the 6-layer teacher's MACs, with settings "
        "and seed of docs/results/core.json; held-out text:\n\n"
        + table(("", "before", "after"), rows)
        + f"\n\nSeeds alone move the KL of the same cell at 1,000 steps between {min(seeds):.3f} and {max(seeds):.3f}."
    )


def worths(measured: Mapping[str, Any]) -> str:
    """Each thing that is still there turned back, at the start of the schedule."""
    ratios = measured["ratios"]
    rows = [
        (name, spread(ratio["time"], "{:.2f}"), f"{ratio['memory']:.2f}", megabytes(ratio["peak_memory_bytes"]))
        for name, ratio in ratios.items()
        if name not in GONE
    ]
    gone = [
        f"{what} {ratios[name]['time']['median']:.2f} and {ratios[name]['memory']:.2f}" for name, what in GONE.items()
    ]
    turned_back = table(("turned back", "× time", "× memory", "peak memory"), rows)
    return f"{turned_back}\n\n" + wrapped(
        f"Gone since, as a step is no slower without (× time and × memory): {'; '.join(gone)}."
    )


def megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.0f} MB"


def case(name: str, results: Mapping[str, Any]) -> str:
    """One case of the benchmark: title, tables, chart."""
    title, *rest = format_bench(results).split("\n\n")
    machine = ", ".join(f"{key} {value}" for key, value in results["machine"].items() if not isinstance(value, dict))
    sections = [f"## `{name}`", f"{title}. {results['date']}; {machine}.", *rest]
    if (chart := RESULTS / f"speed-{name}.png").is_file():
        sections.append(f"![share of each part of a step](results/{chart.name})")
    return "\n\n".join(sections)


def on_gpu(gpu: Mapping[str, Any]) -> str:
    """The whole recipe on a GPU."""
    return "\n\n".join(
        f"**batch {size}**\n\n{results.get('out_of_memory') or format_bench(results)}"
        for size, results in gpu["batch_sizes"].items()
    )


# Latency


def latencies(results: Mapping[str, Any]) -> str:
    """Tables of what was recorded."""
    machine = results["machine"]
    versions = machine["versions"]
    lines = [
        f"{machine['processor']}, {machine['num_threads']} threads of {machine['num_cores']} cores, torch "
        f"{versions['torch']}, onnxruntime {versions['onnxruntime']}. *Load* is how many processes wanted those cores "
        "while it was measured; above the number of cores, other work took part of both models' time.",
        "",
        f"| backend | batch | length | {TEACHER}, ms | {STUDENT}, ms | speed-up | quartiles | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(cell_line(cell) for cell in results["cells"]),
        "",
        "ONNX Runtime at batch 1, length 128 on one core, by **processor time**, which other work hardly changes:",
        "",
        one_core_line(results["one_core"]),
        "",
        f"| operator | {TEACHER}, ms | {STUDENT}, ms |",
        "| --- | --- | --- |",
        *operator_lines(results["operators_ms"]),
    ]
    return "\n".join(lines)


def cell_line(cell: Mapping[str, Any]) -> str:
    place = f"| {cell['backend']} | {cell['batch_size']} | {cell['length']} |"
    if "skipped" in cell:
        return f"{place} {cell['skipped']} | | | | |"
    medians = (f"{cell['latency'][name]['median_ms']:.2f}" for name in (TEACHER, STUDENT))
    ratio = cell["speed_up"][STUDENT]
    quartiles = f"{ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f}"
    return f"{place} {' | '.join(medians)} | {ratio['ratio']:.2f}× | {quartiles} | {cell['load_average']} |"


def one_core_line(one_core: Mapping[str, Any]) -> str:
    times = one_core["processor_time"]
    ratio = one_core["speed_up"][STUDENT]
    return (
        f"{TEACHER} {times[TEACHER]['median_ms']:.2f} ms, {STUDENT} {times[STUDENT]['median_ms']:.2f} ms: "
        f"**{ratio['ratio']:.2f}×** ({ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f})"
    )


def operator_lines(operators: Mapping[str, Mapping[str, float]]) -> list[str]:
    teacher, student = operators[TEACHER], operators[STUDENT]
    shown = [name for name in student if student[name] >= 0.01 * sum(student.values())]
    return [f"| {name} | {teacher.get(name, 0):.2f} | {student[name]:.2f} |" for name in shown]


if __name__ == "__main__":
    main()
