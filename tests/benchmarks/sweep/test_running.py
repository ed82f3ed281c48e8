"""A sweep goes on where it stopped, skips what is done or in other hands, and survives a cell that fails."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from sweep_records import FIGURES
from tiny_files import write_config

from benchmarks.sweep import running, worker
from benchmarks.sweep.__main__ import main
from benchmarks.sweep.cells import Cell
from benchmarks.sweep.folder import read_records, record_head, write_record
from benchmarks.sweep.running import prepare_sweep, run_sweep, write_table


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> dict[str, Any]:
    """Settings of a run with a tiny teacher."""
    folder = tmp_path_factory.mktemp("sweep of a test")
    values = json.loads(write_config(folder).read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if name != "output_dir"}


@pytest.fixture
def sweep_file(tmp_path, base) -> Path:
    """Two variants, two seeds; and one variant that can't exist."""
    content = {
        "output_dir": str(tmp_path / "out"),
        "base": base,
        "grid": {"seed": [0, 1]},
        "cells": {
            "a": {"method": "homodistil"},
            "b": {"method": "one_shot", "num_scoring_batches": 1},
            "c": {"method": "distilbert", "student": "macs=0.25", "grid": {"seed": [0]}},
        },
    }
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


class FakeProcesses:
    """In the place of cells' processes: remembers what they were told, and does as asked."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.statuses: dict[str, list[int]] = {}

    def __call__(self, run: Any, cell: Cell, stop: Any) -> int:
        self.cells.append(cell.name)
        status = self.statuses.get(cell.name, [0]).pop(0)
        log = run.folder.log(cell)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("Traceback …\nValueError: a reason\n\n", encoding="utf-8")
        if status == 0:
            write_record(run.folder.record(cell), record_head(cell) | FIGURES)
        return status


@pytest.fixture
def processes(monkeypatch) -> FakeProcesses:
    fake = FakeProcesses()
    monkeypatch.setattr(running, "_train", fake)
    return fake


def states(path: Path) -> dict[str, str]:
    run = prepare_sweep(path)
    return {cell.name: run.state(cell) for cell in run.cells}


def test_every_cell_is_run_once_and_those_that_cannot_exist_are_recorded(sweep_file, processes):
    lines: list[str] = []
    assert run_sweep(prepare_sweep(sweep_file), lines.append) == 0
    assert processes.cells == ["a,seed=0", "b,seed=0", "a,seed=1", "b,seed=1"]
    assert any(line.startswith("[3/5] c,seed=0: impossible, ") for line in lines)
    assert "[1/5] a,seed=0: done, KL 0.5000, accuracy 0.3000, 17.7 min" in lines
    assert states(sweep_file) == dict.fromkeys(processes.cells, "done") | {"c,seed=0": "impossible"}
    assert run_sweep(prepare_sweep(sweep_file), lines.append) == 0
    assert len(processes.cells) == 4


@pytest.mark.slow
def test_a_cell_that_fails_is_recorded_and_tried_again_by_the_next_call(sweep_file, processes):
    processes.statuses = {"a,seed=0": [1, 0], "b,seed=0": [-signal.SIGKILL, 1], "a,seed=1": [worker.TAKEN_STATUS, 0]}
    assert run_sweep(prepare_sweep(sweep_file), print) == 2
    assert processes.cells == ["a,seed=0", "b,seed=0", "a,seed=1", "b,seed=1", "a,seed=1"]
    table = write_table(prepare_sweep(sweep_file))[0].read_text(encoding="utf-8")
    assert "- failed: `a,seed=0`: ValueError: a reason" in table
    assert "- failed: `b,seed=0`: its process was ended by SIGKILL; SIGKILL may mean out of memory" in table
    assert "- impossible: `c,seed=0`: no number of the teacher's 2 layers" in table
    assert "not run" not in table
    assert run_sweep(prepare_sweep(sweep_file), print) == 1
    assert processes.cells[5:] == ["a,seed=0", "b,seed=0"]
    assert "not run" not in write_table(prepare_sweep(sweep_file))[0].read_text(encoding="utf-8")


def test_the_command_lists_runs_and_says_what_failed(sweep_file, processes, capsys, tmp_path):
    words = [str(sweep_file), "--only", "a", "--output", str(tmp_path / "elsewhere")]
    assert main([*words, "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == ["waiting     a,seed=0", "waiting     a,seed=1"]
    processes.statuses = {"a,seed=1": [1]}
    assert main([*words, "--results", str(tmp_path / "tables" / "table.md")]) == 1
    printed = capsys.readouterr().out
    assert "a,seed=1: failed, ValueError: a reason" in printed
    table = (tmp_path / "tables" / "table.md").read_text(encoding="utf-8")
    assert "| a | 4.00 M | 0.250 | 1.00 M | 0.500 | 0.300 | 3.000 | 1,000 |" in table
    assert "table-discrepancy.png" in table
    assert (tmp_path / "tables" / "table-discrepancy.png").stat().st_size > 1000
    records = read_records(tmp_path / "tables" / "table.jsonl")
    assert [(record["cell"], record["status"]) for record in records] == [("a,seed=0", "done"), ("a,seed=1", "failed")]
    assert records == read_records(tmp_path / "elsewhere" / "results")
    assert main([str(sweep_file), "--only", "z"]) == 2
    assert "only='z' matches no cell" in capsys.readouterr().err
