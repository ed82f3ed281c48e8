"""What a fine-tuning shows while it trains: a bar on a terminal, lines elsewhere."""

from types import SimpleNamespace

import pytest
from own_rows import run
from tiny_files import write_teacher
from tiny_glue import write_task

from homodistil_hf.evaluation import evaluate_glue, fine_tuning
from homodistil_hf.evaluation.fine_tuning import FineTuningLines


def lines_of(monkeypatch, caplog, *, steps, first_step=0):
    """Log lines of a training of 20 steps, whose `steps` are step → seconds since its start."""
    caplog.set_level("INFO", logger="homodistil_hf")
    times = iter([0.0, *steps.values()])
    monkeypatch.setattr(fine_tuning, "time", SimpleNamespace(monotonic=lambda: next(times)))
    progress = FineTuningLines()
    progress.on_train_begin(None, SimpleNamespace(global_step=first_step, max_steps=20), None)
    for step in steps:
        progress.on_step_end(None, SimpleNamespace(global_step=step, max_steps=20), None)
    return [record.getMessage() for record in caplog.records]


def test_elsewhere_a_line_every_half_minute_has_the_seconds_that_are_left(monkeypatch, caplog):
    steps = {4: 20.0, 8: 40.0, 12: 60.0, 16: 80.0}
    assert lines_of(monkeypatch, caplog, steps=steps) == ["step 8 of 20, 60 s left", "step 16 of 20, 20 s left"]


def test_a_resumed_training_counts_its_own_steps(monkeypatch, caplog):
    assert lines_of(monkeypatch, caplog, steps={12: 30.0}, first_step=10) == ["step 12 of 20, 120 s left"]


@pytest.mark.slow
def test_a_terminal_gets_a_bar_of_each_training(given, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(given, learning_rate=None, learning_rates=[1e-3, 3e-3], max_train_steps=3)
    assert capsys.readouterr().err.count("| 3/3 [") >= 3
    write_teacher(tmp_path / "model")
    write_task(tmp_path, "rte")
    settings = {"data_dir": str(tmp_path), "learning_rate": 1e-3, "seeds": 0, "max_train_steps": 3}
    evaluate_glue(tmp_path / "model", "rte", settings=settings, output_dir=tmp_path / "results")
    printed = capsys.readouterr()
    assert "| 3/3 [" in printed.err
    assert "train_runtime" not in printed.out + printed.err


@pytest.mark.slow
def test_elsewhere_there_is_no_bar(given, capsys):
    run(given, max_train_steps=3)
    assert "3/3" not in capsys.readouterr().err
