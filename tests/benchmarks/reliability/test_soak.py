"""A short form of `benchmarks/reliability/soak.py`: a killed run ends as an uninterrupted one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MOMENTS = ("parameters are sliced", "half of the optimizer", "half removed", "between manifest", "no facts")
NUM_STEPS = 24


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_runs_end_as_one_that_was_left_alone(tmp_path):
    results_file = tmp_path / "soak.json"
    options = ["--num_kills", "5", "--max_steps", str(NUM_STEPS), "--folder", str(tmp_path / "soak")]
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.reliability.soak",
            *options,
            "--moments",
            *MOMENTS,
            "--results",
            str(results_file),
        ],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr[-3000:]
    results = json.loads(results_file.read_text(encoding="utf-8"))
    assert results["num_kills"] == sum(results["kills"].values()) == 5
    assert results["num_bytes_lost"] == results["num_differences"] == 0
    assert results["num_compared"] > 1000
    assert {name.removeprefix("forced, ").partition(":")[0] for name in results["kills"]} == {
        "checkpoint",
        "slicing",
        "rotation",
        "export",
    }
    assert "5 kills survived" in finished.stdout


def test_a_difference_is_seen(tmp_path, monkeypatch):
    """What the soak compares by: one bit of one weight, one logged value; times may differ."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.reliability.soak import outcome

    def run(name: str, *, weight=1.0, loss=2.0, time_s=3.0, card="4 ms", graph=b"a graph of 5 ms") -> dict[str, str]:
        folder = tmp_path / name
        (folder / "student").mkdir(parents=True)
        (folder / "student" / "README.md").write_text(f"A student.\n{card}\n", encoding="utf-8")
        (folder / "student" / "model.onnx").write_bytes(graph)
        save_file({"weight": torch.tensor([weight])}, folder / "model.safetensors")
        (folder / "results.json").write_text(json.dumps({"loss": loss, "time_s": time_s}), encoding="utf-8")
        return outcome(folder)

    whole = run("whole")
    assert run("other time", time_s=4.0, card="5 ms") == whole
    assert run("other card", card="4 MB") != whole
    assert run("other graph", graph=b"another of 5 ms") != whole
    assert run("other loss", loss=2.0000000000000004) != whole
    assert run("other bit", weight=1.0000001192092896) != whole
