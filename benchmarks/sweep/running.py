"""A sweep from its first cell to its last: cells that are left, one process a cell, and their outcomes.

Any number of processes may work at one sweep. Each takes cells that no other process has. The table and the plots are
written whenever a process is done.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from filelock import FileLock

from benchmarks.plots import can_plot
from benchmarks.sweep import worker
from benchmarks.sweep.cells import TEACHER, Cell, Sweep, read_sweep, select_cells
from benchmarks.sweep.folder import (
    DONE,
    ERROR,
    FAILED,
    IMPOSSIBLE,
    RECORDS_SUFFIX,
    SweepFolder,
    read_record,
    read_records,
    record_head,
    state_of,
    trained,
    write_record,
    write_records,
)
from benchmarks.sweep.plots import plot_sweep
from benchmarks.sweep.tables import in_order, sweep_table
from benchmarks.sweep.training import check_cells, check_evaluations, setting_names
from homodistil_hf.files.folders import write_text
from homodistil_hf.runs.settings import Log
from homodistil_hf.training.sigterm import EXIT_STATUS, StopRequest

_POLL_SECONDS = 1.0
_NO_PLOTS = "No plots: they need `pip install 'homodistil-hf[report]'`.\n"
_STOPPED = (EXIT_STATUS, -signal.SIGTERM, -signal.SIGINT)


@dataclass(frozen=True)
class SweepRun:
    """A sweep that was read and checked; `impossible`: name of each cell that can't exist → why."""

    sweep: Sweep
    cells: Sequence[Cell]
    folder: SweepFolder
    impossible: dict[str, str]

    def state(self, cell: Cell) -> str:
        """How far a cell has come, in the words of [`state_of`]."""
        return IMPOSSIBLE if cell.name in self.impossible else state_of(cell, self.folder, self.sweep.evaluate)


def prepare_sweep(
    path: str | Path, *, only: Sequence[str] = (), output: str | Path | None = None, train_only: bool = False
) -> SweepRun:
    """Read a sweep and check every cell of it.

    Args:
        path: JSON file.
        only: cells, variants or patterns of such; none for all.
        output: folder of the sweep; default: its `output_dir`.
        train_only: leave the evaluations in `evaluate` for another time.

    Raises:
        ValueError: anything about the file or a cell's settings that can't work.
        OSError: the file, a teacher or a tokenizer can't be read.
    """
    sweep = read_sweep(path, setting_names() - {"method"})
    check_evaluations(sweep.evaluate)
    if train_only:
        students = tuple(cell for cell in sweep.cells if cell.method != TEACHER)
        sweep = replace(sweep, evaluate={}, cells=students)
    cells = select_cells(sweep.cells, only)
    return SweepRun(sweep, cells, SweepFolder(Path(output or sweep.output_dir)), check_cells(cells))


def run_sweep(run: SweepRun, log: Log, *, overwrite: bool = False) -> int:
    """Train every cell that is neither done nor in another process's hands; return the number of failed cells.

    Cells that failed before are tried again, from their last checkpoint. At SIGTERM, and in a command at the first
    SIGINT, the cell in hand saves a checkpoint, and this process ends with the signal's status. Without `overwrite`,
    cells that were run with other settings are a ValueError.
    """
    _record_impossible(run, log)
    to_do = _cells_to_do(run, overwrite=overwrite)
    # these are tried again; what fails from now on has had its turn
    failed_before = {cell.name for cell in to_do if run.state(cell) == FAILED}
    with StopRequest() as stop:
        # cells in other hands wait: their process may give them up
        while cell := next((cell for cell in to_do if run.state(cell) != "running"), None):
            to_do.remove(cell)
            state = run.state(cell)
            if state == DONE or (state == FAILED and cell.name not in failed_before):
                continue  # another process was faster
            log(f"{_place(run, cell)} {cell.name}: {state}, log in {run.folder.log(cell)}")
            status = _train(run, cell, stop)
            if status == worker.TAKEN_STATUS:
                to_do.append(cell)
                continue
            _tell(run, cell, status, log)
            if stop.is_made:
                stop.leave()
    for cell in to_do:
        log(f"{_place(run, cell)} {cell.name}: left to another process")
    return sum(run.state(cell) == FAILED for cell in run.cells)


def write_table(run: SweepRun, file: str | Path | None = None) -> list[Path]:
    """Write table (default: `results.md` in the sweep's folder), records and plots of all cells, asked for or not."""
    file = Path(file or run.folder.root / "results.md")
    records_file = file.with_suffix(RECORDS_SUFFIX)
    lock = run.folder.root / "locks" / "results.lock"
    for folder in (file.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # what another process has read must not be written after ours
        records = in_order(run.sweep.cells, read_records(run.folder.records))
        write_records(records_file, records)
        plots = plot_sweep(records, file.with_suffix(""), run.sweep.choose) if can_plot() else []
        images = [f"![{image.stem}]({image.name})\n" for image in plots]
        note = [] if plots or not trained(records) else [_NO_PLOTS]
        write_text(file, "\n".join([sweep_table(run.sweep, records), *images, *note]))
    return [file, records_file, *plots]


def _record_impossible(run: SweepRun, log: Log) -> None:
    for cell in run.cells:
        if reason := run.impossible.get(cell.name):
            write_record(run.folder.record(cell), record_head(cell) | {"status": IMPOSSIBLE, "reason": reason})
            log(f"{_place(run, cell)} {cell.name}: impossible, {reason}")


def _cells_to_do(run: SweepRun, *, overwrite: bool) -> list[Cell]:
    states = {cell.name: run.state(cell) for cell in run.cells}
    changed = [name for name, state in states.items() if state == "changed"]
    if changed and not overwrite:
        raise ValueError(
            f"{len(changed)} cells in {str(run.folder.root)!r} were run with other settings, {changed[0]!r} for one; "
            "pass --overwrite to train them anew, or another --output"
        )
    return [cell for cell in run.cells if states[cell.name] not in (DONE, IMPOSSIBLE)]


def _train(run: SweepRun, cell: Cell, stop: StopRequest) -> int:
    """Exit status of the cell's process."""
    log = run.folder.log(cell)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as stream, TemporaryFile("w+", encoding="utf-8") as task:
        task.write(worker.task_text(cell, run.folder, run.sweep.evaluate))
        task.seek(0)
        command = [sys.executable, "-m", worker.__name__]
        with subprocess.Popen(command, stdin=task, stdout=stream, stderr=stream) as process:
            try:
                _wait(process, stop)
            finally:
                # After an interrupt; one that has ended doesn't mind.
                end = process.kill if stop.is_made else process.terminate
                end()
    return process.returncode


def _wait(process: subprocess.Popen[bytes], stop: StopRequest) -> None:
    was_told = False
    while process.poll() is None:
        if stop.is_made and not was_told:
            process.terminate()
            was_told = True
        # look again and again, as a signal only sets a flag
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_SECONDS)


def _tell(run: SweepRun, cell: Cell, status: int, log: Log) -> None:
    place = f"{_place(run, cell)} {cell.name}"
    if status in _STOPPED:
        log(f"{place}: stopped by SIGTERM; the next call goes on with it")
        return
    if status != 0:
        error = _error(run.folder.log(cell), status)
        write_record(run.folder.record(cell), _failed(cell, run.folder, error))
        log(f"{place}: failed, {error}")
        return
    record = read_record(run.folder.record(cell)) or {}
    if cell.method == TEACHER:
        log(f"{place}: evaluated")
        return
    metrics, minutes = record["evaluation"], record["seconds"] / 60
    log(f"{place}: done, KL {metrics['kl']:.4f}, accuracy {metrics['mlm_accuracy']:.4f}, {minutes:.1f} min")


def _failed(cell: Cell, folder: SweepFolder, error: str) -> dict[str, Any]:
    """The record of a cell that failed; one that is trained stays so, as only an evaluation was left."""
    record = read_record(folder.record(cell))
    if record is None or record["status"] != DONE or record["digest"] != cell.digest:
        record = record_head(cell) | {"status": FAILED}
    return record | {ERROR: error}


def _error(log: Path, status: int) -> str:
    if status < 0:
        return f"its process was ended by {signal.Signals(-status).name}; SIGKILL may mean out of memory"
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"its process ended with status {status}"


def _place(run: SweepRun, cell: Cell) -> str:
    return f"[{run.cells.index(cell) + 1}/{len(run.cells)}]"
