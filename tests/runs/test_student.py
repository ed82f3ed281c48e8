"""Runs of one student: how often they are logged and evaluated, and what stays of one that had ended."""

import json

import pytest
from safetensors.torch import load_file
from task_rows import write_kind

from homodistil_hf.cli import main


@pytest.mark.slow
def test_a_run_has_curves_and_the_student_of_one_without(tmp_path):
    given = write_kind(tmp_path, "classes") | {"max_steps": 90, "per_device_train_batch_size": 32}
    given |= {"eval_data": given["train_data"], "save_strategy": "no"}
    del given["logging_steps"]
    found = {}
    for name, more in (("curves", {}), ("none", {"eval_strategy": "no", "logging_steps": 500})):
        config = tmp_path / f"{name}.json"
        config.write_text(json.dumps(given | more | {"output_dir": str(tmp_path / name)}))
        assert main(["distill", str(config)]) == 0
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        steps = [[entry["step"] for entry in history if key in entry] for key in ("eval_kl", "loss")]
        found[name] = (*steps, load_file(tmp_path / name / "student" / "model.safetensors"))
    assert found["curves"][:2] == ([*range(9, 91, 9)], [*range(9, 91, 9)])
    assert found["none"][:2] == ([90], [])
    assert all(found["none"][2][name].equal(tensor) for name, tensor in found["curves"][2].items())


def test_a_run_that_had_ended_keeps_its_student_when_it_is_resumed(tmp_path, caplog):
    given = write_kind(tmp_path, "classes") | {"max_steps": 2, "per_device_train_batch_size": 16, "save_steps": 2}
    config, run = tmp_path / "config.json", tmp_path / "run"
    config.write_text(json.dumps(given | {"save_strategy": "steps", "output_dir": str(run)}))
    assert main(["distill", str(config)]) == 0
    facts_file, results = run / "student" / "facts.json", (run / "results.json").read_text()
    # as `homodistil evaluate` adds its results
    with_benchmarks = json.loads(facts_file.read_text()) | {"benchmarks": {"tasks": {}}}
    facts_file.write_text(json.dumps(with_benchmarks))
    again = ["distill", str(config), "--resume_from_checkpoint", "last"]
    assert main(again) == 0
    assert "the run had ended before: " in caplog.text
    assert json.loads(facts_file.read_text()) == with_benchmarks
    assert (run / "results.json").read_text() == results
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert [entry["step"] for entry in history if "eval_kl" in entry][-1:] == [2]
    # what was measured on other rows, is damaged, or of other settings, is written anew
    recorded = json.loads(results)
    recorded["evaluation"]["kl"] *= 1.001
    (run / "results.json").write_text(json.dumps(recorded))
    assert main(again) == 0
    assert json.loads((run / "results.json").read_text())["evaluation"] == json.loads(results)["evaluation"]
    assert "benchmarks" not in json.loads(facts_file.read_text())
    whole = (run / "student" / "config.json").read_text()
    (run / "student" / "config.json").write_text("{}")
    assert main(again) == 0
    assert (run / "student" / "config.json").read_text() == whole
    facts_file.write_text(json.dumps(with_benchmarks))
    assert main([*again, "--max_steps", "3"]) == 0
    assert "benchmarks" not in json.loads(facts_file.read_text())
