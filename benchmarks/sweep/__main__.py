"""Train every cell of a sweep's JSON file, each where it stopped, and write one table and plots.

    python -m benchmarks.sweep examples/sweeps/smoke.json --only homodistil

README.md beside this file describes the file and what a sweep leaves.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.sweep.running import prepare_sweep, run_sweep, write_table
from homodistil_hf.cli import tune_process
from homodistil_hf.training.sigterm import ending_cleanly


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or list the cells; status 1 if one failed, 2 for an error, 130 after an interrupt, 143 after SIGTERM."""
    given = _parser().parse_args(arguments)
    tune_process()
    try:
        with ending_cleanly():
            return _run(given)
    except (ValueError, OSError) as error:
        print(f"sweep: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sweep: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE.json", help="sweep: base settings, cells by name, axes")
    parser.add_argument("--only", nargs="+", default=[], metavar="CELL", help="cells, variants or patterns")
    parser.add_argument("--list", action="store_true", help="say how far each cell has come, and train nothing")
    parser.add_argument("--output", metavar="DIR", help="folder of the sweep (default: the file's output_dir)")
    parser.add_argument("--results", metavar="FILE", help="table to write, plots beside it (default: DIR/results.md)")
    parser.add_argument("--train_only", action="store_true", help="leave the file's evaluations for another call")
    parser.add_argument("--overwrite", action="store_true", help="train cells anew that were run with other settings")
    return parser


def _run(given: argparse.Namespace) -> int:
    run = prepare_sweep(given.file, only=given.only, output=given.output, train_only=given.train_only)
    if given.list:
        for cell in run.cells:
            print(f"{run.state(cell):<10}  {cell.name}")
        return 0
    num_failed = run_sweep(run, lambda line: print(line, flush=True), overwrite=given.overwrite)
    print("\n".join(map(str, write_table(run, given.results))))
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
