"""`homodistil sweep`: many runs from one file. What a cell is and how it is trained isn't here."""

import builtins
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(kw_only=True)
class Sweep:
    """Train every cell of a sweep's JSON file, each where it stopped, and write one table and plots."""

    example: ClassVar[str] = "homodistil sweep examples/sweeps/smoke.json --only homodistil"
    file: str = field(
        metadata={"positional": True, "metavar": "FILE.json", "help": "sweep: base settings, cells by name, axes"}
    )
    only: builtins.list[str] = field(
        default_factory=builtins.list, metadata={"metavar": "CELL", "help": "cells, arms or patterns with * and ?"}
    )
    list: bool = field(default=False, metadata={"help": "say how far each cell has come, and train nothing"})
    output: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "folder of the sweep (default: the file's output_dir)"}
    )
    results: str | None = field(
        default=None, metadata={"metavar": "FILE", "help": "table to write, plots beside it (default: DIR/results.md)"}
    )
    train_only: bool = field(default=False, metadata={"help": "leave the file's evaluations for another call"})
    overwrite: bool = field(default=False, metadata={"help": "train cells anew that were run with other settings"})

    def run(self) -> int:
        """Train, or list the cells; status 1 if one failed."""
        from ..experiments.sweep.running import prepare_sweep, run_sweep, write_table

        run = prepare_sweep(self.file, only=self.only, output=self.output, train_only=self.train_only)
        if self.list:
            for cell in run.cells:
                print(f"{run.state(cell):<10}  {cell.name}")
            return 0
        num_failed = run_sweep(run, lambda line: print(line, flush=True), overwrite=self.overwrite)
        print("\n".join(map(str, write_table(run, self.results))))
        return 1 if num_failed else 0
