"""How long the whole recipe takes on a GPU: 28,000 steps of 4,096 × 128 tokens, BERT-base to homobert-tiny, bfloat16.

    python -m benchmarks.speed.gpu                                                  # on a CUDA device
    python -m benchmarks.speed.gpu --device cpu --shape '{…}' --sequences_a_step 4   # does it run at all?

Measures tokens a second at some points of the schedule, for each batch size a micro-batch may have, with teacher and
student compiled; how that compares with the speed of bare matrix products of the same shapes; and the hours of the
whole recipe, by adding up all of its steps. Other flags: those of `benchmarks.speed.bench`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser

from benchmarks.speed.bench import BERT_BASE
from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench

RECIPE = BERT_BASE | {"compiled": True}
MEASURED = {"points": 6, "rounds": 10, "warmup_rounds": 3, "with_baselines": False}
NO_CUDA = (
    "no CUDA device: nothing is measured. Run this on one, or try it out with --device cpu, a small --shape and a "
    "small --sequences_a_step."
)


def main(words: list[str] | None = None) -> int:
    parser = HfArgumentParser(BenchSettings, description=__doc__)
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1024, 2048, 4096], help="of a micro-batch")
    parser.add_argument("--sequences_a_step", type=int, default=4096)
    parser.add_argument("--results", type=Path, default=Path("docs/results/gpu_schedule.json"))
    parser.set_defaults(**RECIPE, **MEASURED, device="cuda")
    if parser.parse_args(words).device == "cuda" and not torch.cuda.is_available():
        print(NO_CUDA)
        return 0
    settings, options = parser.parse_args_into_dataclasses(args=words)
    gpu = torch.cuda.get_device_name() if settings.device == "cuda" else None
    recorded: dict[str, Any] = {"gpu": gpu, "batch_sizes": {}}
    for batch_size in options.batch_sizes:
        if options.sequences_a_step % batch_size:
            raise ValueError(f"batch_size={batch_size} does not divide sequences_a_step={options.sequences_a_step}")
        print(f"\n# batch {batch_size}\n", flush=True)
        sizes = {"batch_size": batch_size, "accumulation_steps": options.sequences_a_step // batch_size}
        try:
            results = run_bench(replace(settings, **sizes))
            print(f"{format_bench(results)}\n\n{comparison(results)}", flush=True)
        except torch.OutOfMemoryError as error:
            results = {"out_of_memory": str(error)}
            print(f"does not fit: {error}", flush=True)
        recorded["batch_sizes"][str(batch_size)] = results
        options.results.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    return 0


def comparison(results: dict[str, Any]) -> str:
    ours, start = results["schedule"]["ours"], results["variants"]["ours, start"]
    given = results["settings"]
    return (
        f"whole recipe, {given['max_steps']:,} steps of {given['accumulation_steps'] * given['batch_size']:,} × "
        f"{given['length']} tokens: {ours['seconds']['median'] / 3600:.2f} hours, "
        f"{ours['tokens_per_second']['median']:,.0f} tokens/s on average; "
        f"{start['useful_flops_fraction']['median']:.0%} of the speed of bare matrix products at the start"
    )


if __name__ == "__main__":
    raise SystemExit(main())
