"""How long the whole recipe takes on a GPU: 28,000 steps of 4,096 × 128 tokens, BERT-base to homobert-tiny, bfloat16.

    python -m benchmarks.speed.gpu                             # on a CUDA device
    python -m benchmarks.speed.gpu --device cpu --shape '{…}'   # does it run at all?

Measures tokens a second at some points of the schedule, for each batch size a micro-batch may have, with teacher and
student compiled; how that compares with the speed of bare matrix products of the same shapes; and the hours of the
whole recipe, by adding up all of its steps.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench

STEP_SEQUENCES = 4096
NO_CUDA = (
    "no CUDA device: nothing is measured. Run this on one, or try it out with --device cpu, a small --shape and a "
    "small --sequences_a_step."
)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print(NO_CUDA)
        return 0
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
    recorded: dict[str, Any] = {"gpu": gpu, "batch_sizes": {}}
    for batch_size in options.batch_sizes:
        print(f"\n# batch {batch_size}\n", flush=True)
        try:
            results = run_bench(settings(options, batch_size))
            print(f"{format_bench(results)}\n\n{verdict(results)}", flush=True)
        except torch.OutOfMemoryError as error:
            results = {"out_of_memory": str(error)}
            print(f"does not fit: {error}", flush=True)
        recorded["batch_sizes"][str(batch_size)] = results
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shape", default="bert-base")
    parser.add_argument("--student", default="homobert-tiny")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1024, 2048, 4096], help="of a micro-batch")
    parser.add_argument("--sequences_a_step", type=int, default=STEP_SEQUENCES)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--max_steps", type=int, default=28_000)
    parser.add_argument("--pruning_end_fraction", type=float, default=0.7)
    parser.add_argument("--points", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--warmup_rounds", type=int, default=3)
    parser.add_argument("--not_compiled", action="store_true")
    parser.add_argument("--with_reference", action="store_true", help="only where a batch of its logits fits")
    parser.add_argument("--results", type=Path, default=Path("docs/results/gpu_schedule.json"))
    return parser.parse_args(arguments)


def settings(options: argparse.Namespace, batch_size: int) -> BenchSettings:
    if options.sequences_a_step % batch_size:
        raise ValueError(f"batch_size={batch_size} does not divide sequences_a_step={options.sequences_a_step}")
    return BenchSettings(
        shape=options.shape,
        student=options.student,
        batch_size=batch_size,
        accumulation_steps=options.sequences_a_step // batch_size,
        length=options.length,
        device=options.device,
        rounds=options.rounds,
        warmup_rounds=options.warmup_rounds,
        points=options.points,
        max_steps=options.max_steps,
        pruning_end_fraction=options.pruning_end_fraction,
        compiled=not options.not_compiled,
        with_reference=options.with_reference,
    )


def verdict(results: dict[str, Any]) -> str:
    ours, start = results["schedule"]["ours"], results["arms"]["ours, start"]
    given = results["settings"]
    return (
        f"whole recipe, {given['max_steps']:,} steps of {given['accumulation_steps'] * given['batch_size']:,} × "
        f"{given['length']} tokens: {ours['seconds']['median'] / 3600:.2f} hours, "
        f"{ours['tokens_per_second']['median']:,.0f} tokens/s on average; "
        f"{start['useful_flops_fraction']['median']:.0%} of the speed of bare matrix products at the start"
    )


if __name__ == "__main__":
    raise SystemExit(main())
