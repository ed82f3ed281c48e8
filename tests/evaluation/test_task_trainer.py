"""What a fine-tuning shows while it trains: a bar on a terminal, lines elsewhere."""

import pytest
from own_rows import run
from tiny_files import write_teacher
from tiny_glue import write_task

from homodistil_hf.evaluation import evaluate_glue


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
