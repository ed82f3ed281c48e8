"""How fast training is on this machine, beside what a careful Trainer subclass would reach; one case, from flags.

    python -m benchmarks.speed.bench --shape bert-base --student homobert-tiny --dtype float32 --output speed.json

The recorded cases are `benchmarks.speed.cases`.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.chart import draw_parts
from benchmarks.speed.growth import format_growth, run_growth
from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench

FLAGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "shape": (str, "teacher: bert-base, teacher6x384 (default), or BertConfig values as a JSON object"),
    "student": (str, "preset, budget or plan (default: macs=0.25)"),
    "batch_size": (int, "sequences a batch (default: 32)"),
    "length": (int, "tokens a sequence (default: 128)"),
    "accumulation_steps": (int, "batches a step (default: 1)"),
    "dtype": (str, "matrix products of all arms: bfloat16 (default) or float32"),
    "device": (str, "cpu (default) or cuda"),
    "attention_weight": (float, "factor of the attention term in all arms (default: 0, off)"),
    "importance_metric": (str, "how our arms score units (default: that of distill)"),
    "rounds": (int, "timed steps of every arm (default: 7)"),
    "warmup_rounds": (int, "steps of every arm before those (default: 2)"),
    "points": (int, "places of the schedule that are measured (default: 5)"),
    "max_steps": (int, "steps of the run that is summed up (default: 28000)"),
    "pruning_end_fraction": (float, "share of its steps at which the plan is reached (default: that of distill)"),
    "pruning_interval_steps": (int, "steps between two choices of masks (default: that of distill)"),
    "compaction_threshold": (float, "share of MACs that must be masked to compact (default: that of distill)"),
    "multiple": (int, "widths in between are rounded up to this (default: that of distill)"),
    "seed": (int, "of weights, token ids and masks (default: 0)"),
}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (kind, text) in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text)
    parser.add_argument("--compiled", action="store_true", help="run our arms under torch.compile")
    parser.add_argument("--without_reference", action="store_true", help="measure our trainer only")
    parser.add_argument(
        "--growth", action="store_true", help="instead: batches of 16 and 128, vocabularies to 250,000"
    )
    parser.add_argument("--output", metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--chart", metavar="FILE", help="draw the parts of a step (needs matplotlib)")
    flags = parser.parse_args(words)
    given = {name: getattr(flags, name) for name in FLAGS if name in flags}
    settings = BenchSettings(**given, compiled=flags.compiled, with_reference=not flags.without_reference)
    results = run_growth(settings) if flags.growth else run_bench(settings)
    print(format_growth(results) if flags.growth else format_bench(results))
    if flags.output:
        Path(flags.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if flags.chart and not flags.growth:
        draw_parts(results, Path(flags.chart))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
