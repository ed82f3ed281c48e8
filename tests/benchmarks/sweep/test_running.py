"""A sweep goes on where it stopped, skips what is done or in other hands, and survives a cell that fails."""

import json
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_config

from benchmarks.sweep import running, worker
from benchmarks.sweep.__main__ import main
from benchmarks.sweep.cells import Cell
from benchmarks.sweep.folder import (
    read_records,
    record_head,
    write_record,
)
from benchmarks.sweep.running import prepare_sweep, run_sweep, write_table
from homodistil_hf.files.checkpoints import sorted_checkpoints
from homodistil_hf.files.locks import held, holder

METRICS = {"kl": 0.5, "mlm_loss": 4.0, "mlm_accuracy": 0.25}
RTE = {"tasks": ["rte"]}
COSTS = {"num_parameters": 4_000_000, "num_encoder_parameters": 2_000_000, "encoder_macs": 1000, "size_bytes": 1}


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
            write_record(run.folder.record(cell), finished(cell))
        return status


def finished(cell: Cell, **changes: Any) -> dict[str, Any]:
    return record_head(cell) | {
        "status": "done",
        "models": {"teacher": COSTS | {"encoder_macs": 4000}, "student": COSTS},
        "evaluation": METRICS,
        "teacher_evaluation": {"kl": 0.0, "mlm_loss": 3.0, "mlm_accuracy": 0.5},
        "num_steps": 10,
        "num_tokens": 1_000_000,
        "seconds": 120.0,
        "evaluation_seconds": 20.0,
        "evaluations": [{"step": 0, "kl": 1.0}, {"step": 10, "kl": 0.5}],
        "kept_fractions": [],
        **changes,
    }


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
    assert "[1/5] a,seed=0: done, KL 0.5000, accuracy 0.2500, 2.0 min" in lines
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


@pytest.mark.slow
def test_a_cell_in_other_hands_is_left_alone(sweep_file, processes):
    run = prepare_sweep(sweep_file, only=["a"])
    with held(run.folder.lock(run.cells[0])) as is_ours:
        assert is_ours
        assert states(sweep_file)["a,seed=0"] == "running"
        assert holder(run.folder.lock(run.cells[0])) == (os.getpid(), socket.gethostname())
        lines: list[str] = []
        assert run_sweep(run, lines.append) == 0
        assert lines[-1] == f"[1/2] a,seed=0: left to process {os.getpid()} on {socket.gethostname()}"
        assert processes.cells == ["a,seed=1"]
        assert worker.main(worker.task_text(run.cells[0], run.folder, {})) == worker.TAKEN_STATUS
    assert states(sweep_file)["a,seed=0"] == "waiting"
    run_sweep(run, print)
    assert processes.cells == ["a,seed=1", "a,seed=0"]


@pytest.mark.slow
def test_changed_settings_are_not_overwritten_unasked(sweep_file, processes):
    run_sweep(prepare_sweep(sweep_file), print)
    content = json.loads(sweep_file.read_text(encoding="utf-8"))
    content["cells"]["a"]["max_steps"] = 5
    sweep_file.write_text(json.dumps(content), encoding="utf-8")
    assert states(sweep_file)["a,seed=0"] == "changed"
    with pytest.raises(ValueError, match="2 cells in .* were run with other settings, 'a,seed=0' for one"):
        run_sweep(prepare_sweep(sweep_file), print)
    run_sweep(prepare_sweep(sweep_file, only=["b"]), print)
    assert len(processes.cells) == 4
    run_sweep(prepare_sweep(sweep_file), print, overwrite=True)
    assert processes.cells[4:] == ["a,seed=0", "a,seed=1"]
    assert set(states(sweep_file).values()) == {"done", "impossible"}


def test_the_command_lists_runs_and_says_what_failed(sweep_file, processes, capsys, tmp_path):
    words = [str(sweep_file), "--only", "a", "--output", str(tmp_path / "elsewhere")]
    assert main([*words, "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == ["waiting     a,seed=0", "waiting     a,seed=1"]
    processes.statuses = {"a,seed=1": [1]}
    assert main([*words, "--results", str(tmp_path / "tables" / "table.md")]) == 1
    printed = capsys.readouterr().out
    assert "a,seed=1: failed, ValueError: a reason" in printed
    table = (tmp_path / "tables" / "table.md").read_text(encoding="utf-8")
    assert "| a | 4.00 M | 0.250 | 1.00 M | 0.500 | 0.250 | 4.000 | 10,000 |" in table
    assert "table-discrepancy.png" in table
    assert (tmp_path / "tables" / "table-discrepancy.png").stat().st_size > 1000
    records = read_records(tmp_path / "tables" / "table.jsonl")
    assert [(record["cell"], record["status"]) for record in records] == [("a,seed=0", "done"), ("a,seed=1", "failed")]
    assert records == read_records(tmp_path / "elsewhere" / "results")
    assert main([str(sweep_file), "--only", "z"]) == 2
    assert "only='z' matches no cell" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_a_checkpoint_that_the_next_call_goes_on_with(sweep_file, tmp_path, capsys, number, status):
    content = json.loads(sweep_file.read_text(encoding="utf-8"))
    content["base"] |= {"max_steps": 4000, "save_steps": 5, "save_total_limit": 1, "eval_strategy": "no"}
    sweep_file.write_text(json.dumps(content), encoding="utf-8")
    lock, process, is_over = tmp_path / "out" / "locks" / "a,seed=0.lock", os.getpid(), threading.Event()

    def send_after_a_checkpoint() -> None:
        while not sorted_checkpoints(tmp_path / "out" / "a,seed=0") and not is_over.wait(0.1):
            pass
        found = holder(lock)
        assert found is not None
        assert found.pid != process
        if number == signal.SIGINT:  # the terminal sends it to both
            os.kill(found.pid, number)
        signal.pthread_kill(threading.main_thread().ident, number)

    # A background job of a shell ignores SIGINT, and so would its child.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with ThreadPoolExecutor() as threads:
        sent = threads.submit(send_after_a_checkpoint)
        try:
            ended = main([str(sweep_file), "--only", "a,seed=0"])
        except SystemExit as end:
            ended = end.code
        finally:
            is_over.set()
            signal.signal(signal.SIGINT, before)
    sent.result()
    assert ended == status
    assert "a,seed=0: stopped by SIGTERM" in capsys.readouterr().out
    assert states(sweep_file)["a,seed=0"] == "stopped"
    assert holder(lock) is None
