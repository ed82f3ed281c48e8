"""The pages on speed and latency are written from what was measured."""

import json
import shutil
from pathlib import Path

import pytest
from bench_shapes import TINY

from benchmarks.speed import page
from benchmarks.speed.growth import run_growth
from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings

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


@pytest.mark.slow
def test_the_page_is_written_from_what_was_measured(docs):
    settings = BenchSettings(**TINY | {"rounds": 1})
    results = run_bench(settings) | {"date": "2000-01-01"}
    growth = run_growth(settings, batch_sizes=(1, 2), vocab_sizes=(100,))
    names = ("teacher6x384-bfloat16", "bert-base-bfloat16", "teacher6x384-bfloat16-attention")
    speed = dict.fromkeys(names, results) | {"growth": growth}
    (docs / "results" / "speed.json").write_text(json.dumps(speed))
    page.main()
    text = (docs / "performance.md").read_text(encoding="utf-8")
    variant = results["variants"]["ours, start"]
    cells = {cell.strip() for cell in text.replace("\n", "|").split("|")}
    schedule = results["schedule"]
    for wanted in (
        f"- whole schedule, × the strong loop, at 1/4: {schedule['ours']['speedups']['strong loop']['median']:.2f}×",
        f"- whole schedule, × the plain loop: {schedule['ours']['speedups']['plain loop']['median']:.2f}×",
        "- wall clock of a whole run, of one-shot pruning's at as many steps: "
        f"{schedule['one-shot']['speedups']['ours']['median']:.3f}",
        "- peak memory at BERT-base shapes, of the plain loop's: "
        f"{variant['peak_memory_bytes'] / results['variants']['plain loop']['peak_memory_bytes']:.2f}",
        "teacher6x384-bfloat16-attention",
        "## Cost as work grows",
        "Compiled, not measured: micro-batches of 1,024 rows",
    ):
        assert any(cell.startswith(wanted) for cell in cells), wanted
    assert f"{schedule['pruning']['fraction']:.1%}; while pruning, at its largest" in text.replace("\n  ", " ")
    assert "2000-01-01" in text
    compiled = results | {"settings": results["settings"] | {"compiled": True}}
    (docs / "results" / "speed.json").write_text(json.dumps(speed | {"gpu-1024": compiled}))
    page.main()
    text = (docs / "performance.md").read_text(encoding="utf-8")
    assert "Compiled, not measured" not in text
    assert "| gpu-1024 " in text


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


def ratio(median):
    return {"median": median, "q1": median, "q3": median}


@pytest.mark.parametrize(("wall_clock", "strong", "are_met"), [(1.03, 2.0, True), (1.031, 1.99, False)])
def test_goals_against_baselines(wall_clock, strong, are_met):
    loops = {"strong loop": ratio(strong), "plain loop": ratio(2.5 * strong)}
    schedule = {"ours": {"speedups": loops}, "one-shot": {"speedups": {"ours": ratio(wall_clock)}}}
    found = page.baseline_goals({"schedule": schedule})
    assert [goal.is_met for goal in found] == [are_met] * 3
    assert found[0].measured == f"{strong:.2f}× ({strong:.2f}×–{strong:.2f}×)"
    assert found[2].measured == f"{wall_clock:.3f} ({wall_clock:.3f}–{wall_clock:.3f})"
