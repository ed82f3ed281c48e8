"""What is started, and that the record says what is promised."""

import json
from pathlib import Path

from benchmarks.speed.start import RESULTS, all_cases, summary

ROOT = Path(__file__).parents[3]


def test_versions_are_started_with_the_same_words(tmp_path):
    cases = all_cases(tmp_path, {"now": Path("new"), "before": Path("old")})
    for name in ("homodistil --help", "homodistil plan"):
        words, folder, checkout = cases[f"{name}, now"]
        assert cases[f"{name}, before"] == (words, folder, Path("old"))
        assert (folder, checkout) == (tmp_path, Path("new"))


def test_a_summary_is_median_and_range():
    assert summary([3.0, 1.0, 2.0004]) == {"median": 2.0, "lowest": 1.0, "highest": 3.0}


def test_commands_start_in_half_the_time_of_before():
    median = {name: found["median"] for name, found in json.loads((ROOT / RESULTS).read_text())["cpu_s"].items()}
    for name in ("homodistil --help", "homodistil plan"):
        assert 2 * median[f"{name}, now"] <= median[f"{name}, before"]
