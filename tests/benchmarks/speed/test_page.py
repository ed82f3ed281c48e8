"""The pages on speed and latency are written from what was measured."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.speed import page

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """A copy of the pages and of what they are written from."""
    for name in (
        "performance.md",
        "latency.md",
        "results/speed.json",
        "results/compiling.json",
        "results/start.json",
        "results/waiting.json",
        "results/number_types.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(DOCS / name, tmp_path / name)
    shutil.copy(DOCS / "results" / "latency.json", tmp_path / "results")
    monkeypatch.setattr(page, "DOCS", tmp_path)
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
    return tmp_path


@pytest.mark.parametrize("name", ["performance.md", "latency.md"])
def test_the_pages_tell_what_was_recorded(docs, name):
    page.main()
    assert (docs / name).read_text(encoding="utf-8") == (DOCS / name).read_text(encoding="utf-8")


def test_the_share_of_pruning_by_hand():
    variants = {
        "ours, start": {"part_seconds": {"scores": 1.0, "masks": 0.0, "backward": 99.0}},
        "ours, 50% of MACs": {"part_seconds": {"scores": 1.0, "masks": 1.0, "backward": 98.0}},
        "plain loop": {"part_seconds": {"scores": 50.0, "masks": 0.0, "backward": 50.0}},
    }
    pruning = {"choices_seconds": 1.0}
    schedule = {"pruning": pruning, "ours": {"seconds": {"median": 100.0}}}
    assert page.pruning_share({"variants": variants, "schedule": schedule}) == pytest.approx(0.02 + 0.01)


def test_commands_start_in_half_the_time_of_before():
    record = json.loads((DOCS / "results" / "start.json").read_text(encoding="utf-8"))
    median = {name: found["median"] for name, found in record["cpu_s"].items()}
    for name in ("homodistil --help", "homodistil plan"):
        assert 2 * median[f"{name}, now"] <= median[f"{name}, before"]
