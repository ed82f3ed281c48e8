"""`homodistil bench`: speed of training, or with `--latency` of models."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .parsing import add_command, show_logs, tell


def add_bench(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "bench",
        _bench,
        help="measure how fast training is on this machine, beside what a careful Trainer subclass would reach",
        example="homodistil bench --shape bert-base --student homobert-tiny --dtype float32 --output speed.json",
    )
    for name, (kind, text) in FLAGS.items():
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text)
    parser.add_argument("--compiled", action="store_true", help="run our arms under torch.compile")
    parser.add_argument("--without_reference", action="store_true", help="measure our trainer only")
    parser.add_argument(
        "--growth", action="store_true", help="instead: batches of 16 and 128, vocabularies to 250,000"
    )
    parser.add_argument("--output", metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--chart", metavar="FILE", help="draw the parts of a step (needs matplotlib)")
    latency = parser.add_argument_group("latency of models, instead of training")
    latency.add_argument("--latency", nargs="+", metavar="FOLDER", help="exports whose forward passes are compared")
    latency.add_argument("--teacher", help="Hub name or folder to compare them with (default: the first FOLDER)")
    for name, (kind, text) in _LATENCY_FLAGS.items():
        latency.add_argument(f"--{name}", nargs="+", type=kind, default=argparse.SUPPRESS, help=text)
    latency.add_argument("--with_head", action="store_true", help="time whole models; default: without their heads")


_LATENCY_FLAGS: dict[str, tuple[Callable[[str], Any], str]] = {
    "batch_sizes": (int, "sequences a forward pass (default: 1 32)"),
    "lengths": (int, "tokens a sequence (default: 16 128 512)"),
    "backends": (str, "ways to run them (default: torch compiled onnxruntime)"),
}


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


def _bench_latency(flags: argparse.Namespace) -> int:
    from ..evaluation.latency import LatencyGrid, compare_latencies
    from ..evaluation.latency_layout import format_latencies
    from ..models.loading import load_teacher

    show_logs()
    given = {name: getattr(flags, name) for name in _LATENCY_FLAGS if name in flags}
    if "rounds" in flags:
        given["num_rounds"] = flags.rounds
    grid = LatencyGrid(**given, with_head=flags.with_head)
    names = [*([flags.teacher] if flags.teacher else []), *flags.latency]
    results = compare_latencies({name: load_teacher(name) for name in names}, grid, say=tell)
    print(format_latencies(results))
    if flags.output:
        Path(flags.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _bench(flags: argparse.Namespace) -> int:
    if flags.latency:
        return _bench_latency(flags)
    from ..speed.chart import draw_parts
    from ..speed.growth import format_growth, run_growth
    from ..speed.settings import BenchSettings
    from ..speed.speed import run_bench
    from ..speed.tables import format_bench

    given = {name: getattr(flags, name) for name in FLAGS if name in flags}
    settings = BenchSettings(**given, compiled=flags.compiled, with_reference=not flags.without_reference)
    results = run_growth(settings) if flags.growth else run_bench(settings)
    print(format_growth(results) if flags.growth else format_bench(results))
    if flags.output:
        Path(flags.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if flags.chart and not flags.growth:
        draw_parts(results, Path(flags.chart))
    return 0
