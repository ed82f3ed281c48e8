"""`homodistil sweep`: many runs from one file. `runs/sweep` trains them."""

import builtins
from dataclasses import dataclass
from typing import ClassVar

from ..files.settings import flag
from .command import Command, importing


@dataclass(kw_only=True)
class Sweep(Command):
    """Train every cell of a sweep's JSON file, each where it stopped, and write one table and plots."""

    example: ClassVar[str] = "homodistil sweep examples/sweeps/smoke.json --only homodistil"
    file: str = flag("sweep: base settings, cells by name, axes", positional=True, metavar="FILE.json")
    only: builtins.list[str] = flag("cells, variants or patterns with * and ?", default=[], metavar="CELL")
    list: bool = flag("say how far each cell has come, and train nothing", default=False)
    output: str | None = flag("folder of the sweep (default: the file's output_dir)", default=None, metavar="DIR")
    results: str | None = flag(
        "table to write, plots beside it (default: DIR/results.md)", default=None, metavar="FILE"
    )
    train_only: bool = flag("leave the file's evaluations for another call", default=False)
    overwrite: bool = flag("train cells anew that were run with other settings", default=False)

    def run(self) -> int:
        """Train, or list the cells; status 1 if one failed."""
        with importing():
            from ..runs.sweep.running import prepare_sweep, run_sweep, write_table

        run = prepare_sweep(self.file, only=self.only, output=self.output, train_only=self.train_only)
        if self.list:
            for cell in run.cells:
                print(f"{run.state(cell):<10}  {cell.name}")
            return 0
        num_failed = run_sweep(run, lambda line: print(line, flush=True), overwrite=self.overwrite)
        print("\n".join(map(str, write_table(run, self.results))))
        return 1 if num_failed else 0
