"""Decisions that every method shares: a trainer exports its student and adds files for other runtimes."""

import json

import pytest
from deployed import needs_onnx

from homodistil_hf import verify_export


@needs_onnx
@pytest.mark.slow
def test_a_trainer_deploys_its_student(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    (row,) = trainer.deploy(tmp_path / "student", "onnx", num_rounds=0)
    assert row["figures"]["distance"] < 1e-4
    assert json.loads((tmp_path / "student" / "facts.json").read_text())["runtimes"]["rows"] == [row]
    assert verify_export(tmp_path / "student").ok


def test_an_unknown_target_is_refused_before_anything_is_written(make_trainer, tmp_path):
    with pytest.raises(ValueError, match="to='onxx' is unknown"):
        make_trainer().deploy(tmp_path / "student", "onxx")
    assert not (tmp_path / "student").exists()


@needs_onnx
def test_a_deployment_that_fails_on_the_main_process_fails_on_all(make_trainer, tmp_path, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(trainer, "export", lambda folder: None)
    monkeypatch.setattr(trainer, "is_world_process_zero", lambda: False)
    monkeypatch.setattr("homodistil_hf.training.ranks.gather_object", lambda own: ["ValueError: least=98", *own])
    with pytest.raises(ValueError, match="rank 0 stopped with ValueError: least=98"):
        trainer.deploy(tmp_path / "student", "onnx")
