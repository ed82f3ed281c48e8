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
    options += ["--moments", *MOMENTS, "--results", str(results_file)]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.reliability.soak", *options],
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
    moments = {name.removeprefix("forced, ").partition(":")[0] for name in results["kills"]}
    assert moments == {"checkpoint", "slicing", "rotation", "export"}
    assert "5 kills survived" in finished.stdout
