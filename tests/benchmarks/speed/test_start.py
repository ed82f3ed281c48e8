"""What is started, and that the record says what is promised."""

import json
from pathlib import Path

from benchmarks.speed.start import RESULTS

ROOT = Path(__file__).parents[3]


def test_commands_start_in_half_the_time_of_before():
    median = {name: found["median"] for name, found in json.loads((ROOT / RESULTS).read_text())["cpu_s"].items()}
    for name in ("homodistil --help", "homodistil plan"):
        assert 2 * median[f"{name}, now"] <= median[f"{name}, before"]
