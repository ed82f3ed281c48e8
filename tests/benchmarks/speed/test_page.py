"""The page on speed is written from results, and every thing that was turned back leaves the losses alone."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from bench_shapes import TINY

from benchmarks.speed.growth import run_growth
from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def ablation() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / "speed" / "ablation.py"))


def test_what_is_turned_back_changes_time_and_memory_only(ablation, monkeypatch):
    settings = BenchSettings(**TINY | {"rounds": 1, "warmup_rounds": 1, "dtype": "float32"})
    losses: dict[str, float] = {}
    run = ablation["ChangedRun"]
    turn = run.turn

    def remember(self: Any) -> float:
        seconds = turn(self)
        logged = [entry["loss"] for entry in self.run.trainer.state.log_history if "loss" in entry]
        losses.setdefault(self.run.name, logged[0])
        return seconds

    monkeypatch.setattr(run, "turn", remember)
    names = [name for name in ablation["CHANGES"] if name != "teacher compiled"]
    measured = ablation["measure"](settings, names)
    assert list(measured["ratios"]) == names
    assert set(losses) == set(names)
    assert list(losses.values()) == pytest.approx([losses["nothing turned back"]] * len(names), rel=1e-5)
    assert all(ratio["peak_memory_bytes"] > 0 for ratio in measured["ratios"].values())
    assert measured["ratios"]["nothing turned back"]["memory"] == 1
    table = ablation["format_ablation"](measured).splitlines()
    assert len(table) == 2 + len(names)


def test_the_page_is_written_from_what_was_measured(tmp_path, monkeypatch):
    page = runpy.run_path(str(BENCHMARKS / "speed" / "page.py"))
    written = page["main"].__globals__
    monkeypatch.setitem(written, "FOLDER", tmp_path)
    monkeypatch.setitem(written, "PAGE", tmp_path / "performance.md")
    page["main"]()
    empty = (tmp_path / "performance.md").read_text()
    assert "Not measured: no CUDA device was at hand" in empty
    settings = BenchSettings(**TINY | {"rounds": 1})
    results = run_bench(settings) | {"date": "2000-01-01"}
    growth = run_growth(settings, batch_sizes=(1, 2), vocab_sizes=(100,))
    names = ("teacher6x384-bfloat16", "bert-base-bfloat16", "bert-base-bfloat16-platon")
    speed = dict.fromkeys(names, results) | {"growth": growth}
    (tmp_path / "speed.json").write_text(json.dumps(speed))
    page["main"]()
    text = (tmp_path / "performance.md").read_text()
    arm = results["arms"]["ours, start"]
    cells = {cell.strip() for cell in text.replace("\n", "|").split("|")}
    for wanted in (
        f"{results['schedule']['ours']['speedups']['reference']['median']:.2f}×",
        f"{arm['useful_flops_fraction']['median']:.0%}",
        f"{arm['peak_memory_bytes'] / results['arms']['reference']['peak_memory_bytes']:.2f}",
        f"{results['schedule']['pruning']['fraction']:.1%}; while pruning, at its largest",
        "≤ 6 %",
        "## `bert-base-bfloat16-platon`",
        "## Cost as work grows",
    ):
        assert any(cell.startswith(wanted) for cell in cells), wanted
    assert "2000-01-01" in text


def test_the_share_of_pruning_by_hand(monkeypatch):
    page = runpy.run_path(str(BENCHMARKS / "speed" / "page.py"))
    arms = {
        "ours, start": {"part_seconds": {"scores": 1.0, "masks": 0.0, "backward": 99.0}},
        "ours, all masked": {"part_seconds": {"scores": 1.0, "masks": 1.0, "backward": 98.0}},
        "reference": {"part_seconds": {"scores": 50.0, "masks": 0.0, "backward": 50.0}},
    }
    pruning = {"choices_seconds": 0.5, "compactions_seconds": 0.5}
    schedule = {"pruning": pruning, "ours": {"seconds": {"median": 100.0}}}
    assert page["pruning_share"]({"arms": arms, "schedule": schedule}) == pytest.approx(0.02 + 0.01)
