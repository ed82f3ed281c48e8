"""The command `homodistil`: finds the command that is asked for, and tells errors.

Each command stands in a file of its own, which reads its flags, calls the package and prints.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from ..version import __version__
from .demo import add_cache, add_demo
from .distill import run_distill
from .evaluate import add_evaluate
from .export import add_export, add_verify
from .latency import add_latency
from .parsing import CommandParser
from .plan import add_plan
from .push import add_push
from .sweep import add_sweep

_COMMANDS = (
    add_plan,
    add_export,
    add_verify,
    add_push,
    add_evaluate,
    add_latency,
    add_sweep,
    add_demo,
    add_cache,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words after `homodistil`; default: those of this process.

    Returns:
        `int`: exit status. 0: done; 1: `verify` found problems, or cells of `sweep` failed; 2: an error, told on
            standard error; 130: interrupted. SIGTERM during training saves a checkpoint and ends the process with 143.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Read by torch once, at its first allocation: large tensors in large pages, where Linux offers them, instead of
    # thousands of page faults each (docs/performance.md).
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        if words[:1] == ["distill"]:
            return run_distill(words[1:])
        namespace = _parser().parse_args(words)
        return namespace.command(namespace)
    except (ValueError, OSError, FloatingPointError) as error:
        if _is_a_bug(error):
            raise
        print(f"homodistil: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("homodistil: interrupted", file=sys.stderr)
        return 130


def _is_a_bug(error: Exception) -> bool:
    """A `ValueError` that comes out of somebody else's code in the middle of training keeps its traceback."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    in_training = any(frame.f_code.co_name == "_inner_training_loop" for frame in frames)
    raised_here = str(frames[-1].f_globals.get("__name__")).startswith("homodistil_hf.") if frames else True
    return isinstance(error, ValueError) and in_training and not raised_here


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="homodistil",
        description="Prune the width of a BERT encoder while distilling it.",
        epilog="example: homodistil plan --teacher google-bert/bert-base-uncased --student homobert-tiny",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"homodistil_hf {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)
    commands.add_parser("distill", help="distil and prune a teacher as a JSON file says", add_help=False)
    for add in _COMMANDS:
        add(commands)
    return parser
