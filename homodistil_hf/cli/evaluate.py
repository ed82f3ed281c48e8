"""`homodistil evaluate`: flags and work are in `evaluation/command.py`."""

import argparse
from typing import Any

from .parsing import add_command, show_logs, tell


def add_evaluate(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    from .evaluate_flags import add_flags

    add_flags(
        add_command(
            commands,
            "evaluate",
            _evaluate,
            help="measure a model: discrepancy to its teacher, GLUE, SQuAD; or compare what was measured",
            example="homodistil evaluate runs/my-student --task rte mrpc --seeds 0 1 2",
        )
    )


def _evaluate(flags: argparse.Namespace) -> int:
    from .evaluate_flags import run

    show_logs()
    print(run(flags, tell))
    return 0
