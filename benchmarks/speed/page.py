"""Write docs/performance.md from the JSON files that the speed benchmarks wrote.

    python -m benchmarks.speed.page

Every number on the page comes from docs/results/: speed.json (benchmarks/speed.py), speed-ablation.json
(benchmarks/speed_ablation.py), latency.json (benchmarks/latency.py) and, where there was a GPU, gpu-schedule.json
(benchmarks/gpu_schedule.py).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.ablation import format_ablation
from benchmarks.speed.growth import format_growth
from benchmarks.speed.limits import StepShape
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench, spread, table
from benchmarks.speed.totals import way_of
from homodistil_hf.evaluation.latency import format_latencies
from homodistil_hf.models.widths import WidthPlan

PAGE = Path("docs/performance.md")
FOLDER = Path("docs/results")
START, FIRST = "ours, start", "ours, 100% of MACs"

INTRODUCTION = """# Speed

Written by `python -m benchmarks.speed.page` from the JSON files in `docs/results/`, which hold every single
measurement, versions and machine. Repeat them with `make bench` (one case) or with the scripts in `benchmarks/`.

**What is compared.** All arms live in one process and take turns, one optimizer step each, in an order drawn anew
every round; a ratio is taken within a round, and medians with quartiles are given. A step is the trainer's own,
data loading, optimizer, logging and callbacks included, on the same batches, and all arms start at the same losses.

- *reference*: what a careful user of Hugging Face writes: a `Trainer` subclass with stock models, transformers'
  own choice of attention, logits at all positions, all hidden states, scores from gradients, and masks multiplied onto
  the weights and kept to the end; the same terms in the same precision (`homodistil_hf/speed/reference.py`).
- *ours*: `HomoDistilTrainer`, held at places of the schedule. The whole schedule is the sum over all of its steps,
  whose widths are known beforehand, with the cost of all choices of masks and compactions.
- *limit*: bare matrix products of the same shapes and type, measured in the same turns. *Useful FLOPs* are the
  teacher's forward pass, the student's forward and backward pass, heads at masked positions and projections.
- *peak memory*: the allocator's own record over a step, above weights, gradients and optimizer state.
"""

WHERE_THE_TIME_GOES = """## What makes it fast

- **Head and KL at masked positions**, gathered before the head. Decoder, cross-entropy, KL and their gradients are
  computed together, some rows at a time, in the forward pass: logits never exist as a whole, nothing is computed
  twice, and on a CPU the float32 part of it stays in the cache. Temporaries: at most 256 MB of logits, 256 MB of the
  product that becomes the matrix's gradient, and four float32 pieces of 1 MB (CPU) or 128 MB (GPU), whatever the batch
  and the vocabulary; besides those the gradient itself, and the matrix in the product's type, as under autocast.
- **Attention.** On a GPU and in float32 torch's fused kernels. In bfloat16 on a CPU they are the slow ones, so there
  an implementation of our own: plain matrix products, one half-precision matrix a head kept.
- **Compaction during training**, at points that depend on masks, step and a fixed cost formula. The default
  threshold of a tenth of the MACs leaves the student's mean cost 4 % above the ideal on the way to homobert-tiny,
  with 21 compactions; what they cost is in the tables.
- **The teacher** runs in inference mode, with matrices in bfloat16 where the hardware multiplies it, and is compiled
  when the student is (`torch_compile`, which takes torch 2.7 or newer). On a CPU compiling gains nothing: nearly all
  of its time is matrix products.
- **Nothing twice**: one cast for query, key and value; dropped slices looked up once for each choice of masks; no
  scores once the plan is reached; attention scores for the loss only where it is on and only for the heads in it;
  PLATON's averages in place; gradients are read where they are.
- **Memory**: activations are computed again rather than kept, the hidden error keeps its difference only, and a
  micro-batch whose activations would exceed a budget (`activation_budget_mb`; 1 GB on a CPU, none elsewhere) goes
  through in parts, whose gradients add up to the whole's.
- **Large pages**: the command line sets torch's `THP_MEM_ALLOC_ENABLE=1` (unless it is set already), so that
  a large tensor costs a few page faults instead of thousands; in a script, set it before torch is imported.
- **Data**: tokenised once, memory-mapped, packed to the full length; masks are drawn by row, so any number of
  `dataloader_num_workers` gives the same batches. Transfers from pinned memory don't hold up the host, and the host
  waits for the device once an optimizer step, not once a micro-step.
"""

GPU_MISSING = """## On a GPU

Not measured: no CUDA device was at hand. `python -m benchmarks.speed.gpu` measures BERT-base with batches of
1,024–4,096 × 128 in bfloat16 with compiled teacher and student at seven places of the schedule, the share of the
device's measured matrix-product limit, and the hours of the whole recipe; the tests run it on a CPU with tiny sizes.
"""


def main() -> None:
    speed = read("speed.json")
    sections = [INTRODUCTION, "## Goals\n", goals(speed, read("latency.json")), "", WHERE_THE_TIME_GOES]
    if base := speed.get("bert-base-bfloat16"):
        sections += [why_compaction_gains_less(base), ""]
    if ablation := read("speed-ablation.json"):
        sections += ["## What each thing is worth\n", ablations(ablation), ""]
    sections += [case(name, results) for name, results in speed.items() if name != "growth"]
    if "growth" in speed:
        sections += ["## Cost as work grows\n", format_growth(speed["growth"]), ""]
    if latency := read("latency.json"):
        sections += [latencies(latency), ""]
    gpu = read("gpu-schedule.json")
    sections.append(on_gpu(gpu) if gpu else GPU_MISSING)
    PAGE.write_text("\n".join(sections), encoding="utf-8")


def read(name: str) -> dict[str, Any]:
    """A file of results; empty if nobody has measured it."""
    file = FOLDER / name
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def goals(speed: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """What was aimed at, and what was measured."""
    small, base = speed.get("teacher6x384-bfloat16"), speed.get("bert-base-bfloat16")
    rows: list[Sequence[str]] = []
    if small:
        rows += [
            (
                "whole schedule to 1/4 of the 6-layer teacher's MACs, against the reference",
                "≥ 5×",
                spread(small["schedule"]["ours"]["speedups"]["reference"], "{:.2f}×"),
            )
        ]
    if base:
        arms = base["arms"]
        rows += [
            (
                "whole schedule from BERT-base to homobert-tiny, against never compacting",
                f"≥ 2.2× (ceiling {compaction_ceiling(base):.2f}×)",
                spread(base["schedule"]["ours"]["speedups"]["ours, never compacted"], "{:.2f}×"),
            ),
            (
                "useful FLOPs at BERT-base shapes, kept fraction 1, of the matrix products' limit",
                "≥ 60 %",
                spread(arms[START]["useful_flops_fraction"], "{:.0%}"),
            ),
            (
                "peak memory at BERT-base shapes, of the reference's",
                "≤ 1/3",
                f"{arms[START]['peak_memory_bytes'] / arms['reference']['peak_memory_bytes']:.2f}",
            ),
        ]
    rows += pruning_shares(speed)
    if "growth" in speed:
        largest = list(speed["growth"]["batch_sizes"].values())[-1]
        rows.append(("tokens/s at batch 128, of those at 16", "≥ 0.95", spread(largest["relative_speed"], "{:.2f}")))
    if latency:
        rows.append(latency_goal(latency))
    return table(("figure", "goal", "measured: median (quartiles)"), rows)


def compaction_ceiling(results: Mapping[str, Any]) -> float:
    """What compaction would gain if every useful multiplication took the same time and nothing else took any.

    The teacher's forward pass, heads at masked positions and projections are in it; the student shrinks as the
    schedule and the compaction threshold let it.
    """
    settings = BenchSettings(**results["settings"])
    num_tokens = settings.batch_size * settings.length

    def flops(student: WidthPlan) -> float:
        return StepShape(settings.full, student, settings.config.vocab_size, num_tokens, settings.length).useful_flops

    stretches = way_of(settings).stretches
    compacted = sum(stretch.num_steps * flops(stretch.present) for stretch in stretches)
    return settings.max_steps * flops(settings.full) / compacted


def why_compaction_gains_less(results: Mapping[str, Any]) -> str:
    """What keeps compaction below its ceiling, from the profile."""
    ours = {name: arm for name, arm in results["arms"].items() if name not in ("reference", "ours, all masked")}
    last_name, last = list(ours.items())[-1]
    shares = {part: seconds / sum(last["part_seconds"].values()) for part, seconds in last["part_seconds"].items()}
    gain = results["schedule"]["ours"]["speedups"]["ours, never compacted"]["median"]
    ceiling = compaction_ceiling(results)
    return f"""**Compaction against none.** The ceiling counts every useful multiplication alike: the teacher's forward
pass, which stays, heads at masked positions, and the projections, whose outputs keep the teacher's width. Of
{ceiling:.2f}×, {gain:.2f}× are reached ({gain / ceiling:.0%}). The profile of the last place ({last_name}) says why:
the teacher takes {shares["teacher"]:.0%} of that step, the student's forward pass {shares["student"]:.0%}, losses
{shares["losses"]:.0%}, backward {shares["backward"]:.0%}; useful FLOPs reach
{last["useful_flops_fraction"]["median"]:.0%} of the limit there and
{ours[START]["useful_flops_fraction"]["median"]:.0%} at the start. What is no matrix product (softmaxes over pairs of
tokens, LayerNorms, the vocabulary's exponentials) does not shrink with the widths, or only by their first power.
"""


def pruning_shares(speed: Mapping[str, Any]) -> list[Sequence[str]]:
    """The share of scores, masks and compaction in a step, at its largest."""
    rows = []
    for name, results in speed.items():
        if name == "growth" or "512" in name or "attention" in name:
            continue
        goal = "≤ 6 %" if "platon" in name else "≤ 3 %"
        largest, whole = pruning_share(results), results["schedule"]["pruning"]["fraction"]
        rows.append(
            (
                f"scores + masks + compaction, share of the run: {name}",
                goal,
                f"{whole:.1%}; while pruning, at its largest {largest:.1%}",
            )
        )
    return rows


def pruning_share(results: Mapping[str, Any]) -> float:
    """Of all places: scores and zeroing in every step, choices and compactions spread over all steps."""
    extra, schedule = results["schedule"]["pruning"], results["schedule"]["ours"]["seconds"]["median"]
    spread_out = (extra["choices_seconds"] + extra["compactions_seconds"]) / schedule
    shares = [
        (arm["part_seconds"]["scores"] + arm["part_seconds"]["masks"]) / sum(arm["part_seconds"].values())
        for name, arm in results["arms"].items()
        if name != "reference"
    ]
    return max(shares) + spread_out


def latency_goal(latency: Mapping[str, Any]) -> Sequence[str]:
    """BERT-base beside homobert-tiny in ONNX Runtime, one sequence of 128 tokens."""
    place = {"backend": "onnxruntime", "batch_size": 1, "length": 128}
    cell = next(cell for cell in latency["cells"] if place.items() <= cell.items())
    ratio = cell["speed_up"]["homobert-tiny"]
    measured = f"{ratio['ratio']:.1f}× ({ratio['lower_quartile']:.1f}–{ratio['upper_quartile']:.1f})"
    return "latency of homobert-tiny's encoder, ONNX Runtime, float32, 1 × 128, against BERT-base's", "≥ 7×", measured


def ablations(ablation: Mapping[str, Any]) -> str:
    """Each thing turned back, at the start of the schedule."""
    text = """One thing turned back at a time, at the start of the schedule, batch 32 × 128, bfloat16; above 1: slower
or larger without it. Arms that do the same differ by some percent, so a tenth says little. Read that way, the head
computed in chunks and leaving torch's fused attention aside are worth their place in time, the single cast and the
recomputed activations in memory only. A step with plain attention is not slower than one with ours; why is not
understood.
"""
    return "\n".join(f"{text}\n**{shape}**\n\n{format_ablation(measured)}" for shape, measured in ablation.items())


def case(name: str, results: Mapping[str, Any]) -> str:
    """One case of the benchmark: title, tables, chart."""
    title, *rest = format_bench(results).split("\n\n")
    machine = results["machine"]
    chart = FOLDER / f"speed-{name}.png"
    lines = [f"## `{name}`", "", f"{title}. {results['date']}; {describe(machine)}.", "", "\n\n".join(rest), ""]
    if chart.is_file():
        lines += [f"![share of each part of a step](results/{chart.name})", ""]
    return "\n".join(lines)


def describe(machine: Mapping[str, Any]) -> str:
    """The machine in words."""
    return ", ".join(f"{key} {value}" for key, value in machine.items() if not isinstance(value, dict))


def latencies(latency: Mapping[str, Any]) -> str:
    """What comes out, beside its teacher."""
    return f"## Latency of what comes out\n\n```text\n{format_latencies(latency)}\n```"


def on_gpu(gpu: Mapping[str, Any]) -> str:
    """The whole recipe on a GPU."""
    tables = [f"**batch {size}**\n\n{format_bench(results)}" for size, results in gpu["batch_sizes"].items()]
    return "\n\n".join(["## On a GPU", *tables])


if __name__ == "__main__":
    main()
