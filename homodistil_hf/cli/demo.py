"""`homodistil demo` and `homodistil cache`, where the demo keeps its teacher."""

import argparse
from typing import Any

from .parsing import add_command, show_logs


def add_demo(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "demo",
        _demo,
        help="train a small teacher on docstrings, distil it to a quarter of its cost, and print what came out",
        example="homodistil demo --output_dir runs/demo",
    )
    parser.add_argument("--output_dir", default="runs/demo", help="folder to write (default: runs/demo)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same student (default: 0)")
    parser.add_argument("--max_steps", type=int, help="steps of each student (default: what fits in eight minutes)")
    parser.add_argument("--teacher_steps", type=int, help="steps of the teacher")
    parser.add_argument("--quick", action="store_true", help="a few steps with tiny models: does it work at all?")


def _demo(flags: argparse.Namespace) -> int:
    from ..experiments.demo.run import demo_settings, run_demo

    show_logs()
    run_demo(
        demo_settings(
            output_dir=flags.output_dir,
            seed=flags.seed,
            max_steps=flags.max_steps,
            teacher_steps=flags.teacher_steps,
            quick=flags.quick,
        )
    )
    return 0


def add_cache(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "cache",
        _cache,
        help="say where caches are and how large, or remove them",
        example="homodistil cache --clear",
    )
    parser.add_argument(
        "--clear", action="store_true", help="remove the demo's teacher, tokenized texts and latency tables"
    )


def _cache(flags: argparse.Namespace) -> int:
    from ..files.caches import cache_folder, cache_sizes, clear_caches

    if flags.clear:
        print(f"freed {clear_caches():,} bytes in {cache_folder()}")
        return 0
    for kind, size_bytes in cache_sizes().items():
        print(f"{cache_folder() / kind}: {size_bytes:,} bytes")
    return 0
