"""The speed of training on this machine, beside the loops that users write and beside one-shot pruning.

    python -m benchmarks.speed.bench --shape bert-base --student homobert-tiny --dtype float32 --output speed.json
    python -m benchmarks.speed.bench --cases teacher6x384-bfloat16
    python -m benchmarks.speed.bench --cases gpu-256 gpu-1024 gpu-2048 gpu-4096    # on a CUDA device

The first form takes 10 minutes on 2 quiet cores. The others record cases in docs/results/speed.json, the first case
with a bar chart; other cases of the file stay. With 24 GB of memory the case of BERT-base needs MALLOC_ARENA_MAX=1:
its variants share one process. `gpu-256` stands beside the loops; the other cases of a GPU are the whole recipe,
compiled: 28,000 steps of 4,096 × 128 tokens, by the size of a micro-batch.
"""

import json
import logging
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from benchmarks.speed.growth import format_growth, run_growth
from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import draw_parts, format_bench
from homodistil_hf.cli import tune_process

RESULTS = Path("docs/results/speed.json")
# Shapes, batch and steps of examples/configs/wikibooks_quarter.json, pruned gradually.
SHIPPED = "teacher6x384-bfloat16"
OLDER = {"mlm_probability": 0.15, "student": "192-12x16-704", "pruning_end_fraction": 0.5, "max_steps": 28_000}
# Pruning ends at 0.7 of the steps: what the ceiling of compaction is stated for.
BERT_BASE = {"shape": "bert-base"} | OLDER | {"student": "homobert-tiny", "pruning_end_fraction": 0.7}
GROWTH = "growth"  # instead: batches of 16 and 128, vocabularies to 250,000
CASES: dict[str, dict[str, Any]] = {
    SHIPPED: {"student": "216-9x24-528", "batch_size": 16, "rounds": 9, "points": 4},
    "teacher6x384-bfloat16-eighth": {"student": "160-8x20-288", "batch_size": 16, "rounds": 5, "points": 3},
    "teacher6x384-bfloat16-sixteenth": {"student": "112-7x16-176", "batch_size": 16, "rounds": 5, "points": 3},
    "bert-base-bfloat16": BERT_BASE | {"rounds": 5, "points": 4},
    "teacher6x384-bfloat16-attention": OLDER | {"attention_weight": 1.0, "rounds": 5, "points": 3},
    "teacher6x384-bfloat16-512": OLDER | {"length": 512, "batch_size": 8, "rounds": 5, "points": 3},
    GROWTH: OLDER,
}
GPU = {"device": "cuda", "points": 3, "rounds": 7, "warmup_rounds": 3, "instances": 2}
CASES["gpu-256"] = BERT_BASE | GPU | {"batch_size": 256}
for _size in (1024, 2048, 4096):
    _whole_recipe = {"compiled": True, "with_baselines": False, "accumulation_steps": 4096 // _size}
    CASES[f"gpu-{_size}"] = BERT_BASE | GPU | _whole_recipe | {"batch_size": _size}


def main(words: Sequence[str] | None = None) -> int:
    parser = HfArgumentParser(BenchSettings, description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=[], help="record these instead")
    parser.add_argument("--output", type=Path, help="write all numbers as JSON")
    parser.add_argument("--chart", type=Path, help="draw the parts of a step (needs matplotlib)")
    settings, options = parser.parse_args_into_dataclasses(args=words)
    tune_process()  # as the command line does, for all variants
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for case in options.cases:
        print(f"\n# {case}\n", flush=True)
        record(case)
    if not options.cases:
        results = run_bench(settings)
        print(format_bench(results))
        if options.output:
            options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        if options.chart:
            draw_parts(results, options.chart)
    return 0


def record(case: str) -> None:
    """Run one case and write it into the file."""
    settings = BenchSettings(**CASES[case])
    results = run_growth(settings) if case == GROWTH else run_bench(settings)
    print(format_growth(results) if case == GROWTH else format_bench(results), flush=True)
    if case == SHIPPED:
        draw_parts(results, RESULTS.with_name(f"speed-{case}.png"))
    recorded = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    recorded[case] = {"date": f"{datetime.now(timezone.utc):%Y-%m-%d}"} | results
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
