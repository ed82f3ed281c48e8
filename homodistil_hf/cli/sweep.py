"""`homodistil sweep`: many runs from one file."""

import argparse
from typing import Any

from .parsing import add_command


def add_sweep(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "sweep",
        _sweep,
        help="train every cell of a sweep's JSON file, each where it stopped, and write one table and plots",
        example="homodistil sweep examples/sweeps/smoke.json --only homodistil",
    )
    parser.add_argument("file", metavar="FILE.json", help="sweep: base settings, cells by name, axes")
    parser.add_argument("--only", nargs="+", default=(), metavar="CELL", help="cells, arms or patterns with * and ?")
    parser.add_argument("--list", action="store_true", help="say how far each cell has come, and train nothing")
    parser.add_argument("--output", metavar="DIR", help="folder of the sweep (default: the file's output_dir)")
    parser.add_argument("--results", metavar="FILE", help="table to write, plots beside it (default: DIR/results.md)")
    parser.add_argument("--train_only", action="store_true", help="leave the file's evaluations for another call")
    parser.add_argument("--overwrite", action="store_true", help="train cells anew that were run with other settings")


def _sweep(flags: argparse.Namespace) -> int:
    from ..experiments.sweep.running import prepare_sweep, run_sweep, write_table

    run = prepare_sweep(flags.file, only=flags.only, output=flags.output, train_only=flags.train_only)
    if flags.list:
        for cell in run.cells:
            print(f"{run.state(cell):<10}  {cell.name}")
        return 0
    num_failed = run_sweep(run, lambda line: print(line, flush=True), overwrite=flags.overwrite)
    print("\n".join(map(str, write_table(run, flags.results))))
    return 1 if num_failed else 0
