"""A run that isn't told how often is logged and evaluated ten times, which changes nothing of its student."""

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
