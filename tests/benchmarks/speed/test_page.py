"""The pages on speed and latency are written from what was measured."""

import json
import shutil
from pathlib import Path

from benchmarks.speed import page

DOCS = Path(__file__).parents[3] / "docs"


def test_the_pages_tell_what_was_recorded(tmp_path):
    pages = ("performance.md", "latency.md")
    for name in pages:
        shutil.copy(DOCS / name, tmp_path)
    page.main(tmp_path)
    for name in pages:
        assert (tmp_path / name).read_text(encoding="utf-8") == (DOCS / name).read_text(encoding="utf-8")


def test_commands_start_in_half_the_time_of_before():
    record = json.loads((DOCS / "results" / "start.json").read_text(encoding="utf-8"))
    median = {name: found["median"] for name, found in record["cpu_s"].items()}
    for name in ("homodistil --help", "homodistil plan"):
        assert 2 * median[f"{name}, now"] <= median[f"{name}, before"]
