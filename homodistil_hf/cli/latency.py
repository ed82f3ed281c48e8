"""`homodistil latency`: how long forward passes of exports take on this machine, side by side."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .parsing import add_command, show_logs, tell


def add_latency(commands: Any) -> None:
    """Add the command, and for one release the hint that stands where it was.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "latency",
        _latency,
        help="compare how long forward passes take on this machine: exports, and the model they were made from",
        example="homodistil latency runs/my-student/student --teacher google-bert/bert-base-uncased",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="exports whose forward passes are compared")
    parser.add_argument("--teacher", help="Hub name or folder to compare them with (default: the first FOLDER)")
    for name, (kind, text) in _LISTS.items():
        parser.add_argument(f"--{name}", nargs="+", type=kind, default=argparse.SUPPRESS, help=text)
    parser.add_argument("--rounds", type=int, default=argparse.SUPPRESS, help="timed passes of every model")
    parser.add_argument("--with_head", action="store_true", help="time whole models; default: without their heads")
    parser.add_argument("--output", metavar="FILE", help="write all numbers as JSON")
    moved = commands.add_parser("bench", add_help=False, prefix_chars="\0")
    moved.add_argument("words", nargs="*")
    moved.set_defaults(command=_moved)


_LISTS: dict[str, tuple[Callable[[str], Any], str]] = {
    "batch_sizes": (int, "sequences a forward pass (default: 1 32)"),
    "lengths": (int, "tokens a sequence (default: 16 128 512)"),
    "backends": (str, "ways to run them (default: torch compiled onnxruntime)"),
}


def _latency(flags: argparse.Namespace) -> int:
    from ..evaluation.latency import LatencyGrid, compare_latencies
    from ..evaluation.latency_layout import format_latencies
    from ..models.loading import load_teacher

    show_logs()
    given = {name: getattr(flags, name) for name in _LISTS if name in flags}
    if "rounds" in flags:
        given["num_rounds"] = flags.rounds
    grid = LatencyGrid(**given, with_head=flags.with_head)
    names = [*([flags.teacher] if flags.teacher else []), *flags.folders]
    results = compare_latencies({name: load_teacher(name) for name in names}, grid, say=tell)
    print(format_latencies(results))
    if flags.output:
        Path(flags.output).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def _moved(flags: argparse.Namespace) -> int:
    raise ValueError(
        "'bench' is no command any more; for the latency of exports: homodistil latency FOLDER …, for the speed of "
        "training: make bench in a checkout"
    )
