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
        "results/speed-ablation.json",
        "results/core.json",
        "results/start.json",
        "results/methods_quarter.jsonl",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(DOCS / name, tmp_path / name)
    for file in (DOCS / "results").glob("*-bfloat16*.png"):
        (tmp_path / "results" / file.name).touch()
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
    names = ("teacher6x384-bfloat16", "bert-base-bfloat16", "bert-base-bfloat16-platon")
    speed = dict.fromkeys(names, results) | {"growth": growth}
    (docs / "results" / "speed.json").write_text(json.dumps(speed))
    page.main()
    text = (docs / "performance.md").read_text(encoding="utf-8")
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
        "Not measured: no CUDA device was at hand",
    ):
        assert any(cell.startswith(wanted) for cell in cells), wanted
    assert "2000-01-01" in text
    gpu = {"batch_sizes": {"1024": results, "2048": {"out_of_memory": "tried to allocate 9 GiB"}}}
    (docs / "results" / "gpu_schedule.json").write_text(json.dumps(gpu))
    page.main()
    assert "**batch 2048**\n\ntried to allocate 9 GiB" in (docs / "performance.md").read_text(encoding="utf-8")


def test_the_share_of_pruning_by_hand():
    arms = {
        "ours, start": {"part_seconds": {"scores": 1.0, "masks": 0.0, "backward": 99.0}},
        "ours, 50% of MACs": {"part_seconds": {"scores": 1.0, "masks": 1.0, "backward": 98.0}},
        "reference": {"part_seconds": {"scores": 50.0, "masks": 0.0, "backward": 50.0}},
    }
    pruning = {"choices_seconds": 1.0}
    schedule = {"pruning": pruning, "ours": {"seconds": {"median": 100.0}}}
    assert page.pruning_share({"arms": arms, "schedule": schedule}) == pytest.approx(0.02 + 0.01)


def measured(rate, peak):
    quartiles = dict.fromkeys(("median", "q1", "q3"), rate)
    shares = dict.fromkeys(("median", "q1", "q3"), rate / 100000.0)
    return {"tokens_per_second": quartiles, "scores_and_masks_share": shares, "peak_memory_bytes": peak}


def test_before_and_after_by_hand(docs):
    moments = {"0.0": {"before": measured(1000, 2e6), "after": measured(1200, 3e6)}}
    evaluations = {"kl": 0.25, "mlm_loss": 3.5, "mlm_accuracy": 0.4}
    run = {"settings": {"max_steps": 500}} | dict.fromkeys(("before", "after"), evaluations)
    seeds = [
        {"arm": arm, "evaluation": {"kl": kl}} for arm, kl in (("homodistil", 0.24), ("a", 0.1), ("homodistil", 0.26))
    ]
    (docs / "results" / "methods_quarter.jsonl").write_text("\n".join(map(json.dumps, seeds)))
    text = page.simplifications({"speed": {"tiny": {"moments": moments}}, "run": run})
    cells = [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]]
    rates = ["1,000 (1,000–1,000)", "1,200 (1,200–1,200)", "1.20"]
    assert cells == ["tiny, after 0% of the steps", *rates, "1.0%", "1.2%", "2 MB", "3 MB"]
    assert "rose most at tiny, after 0% of the steps: 1.5 ×" in text.replace("\n", " ")
    assert "lowest at tiny, after 0% of the steps: 1.20 ×" in text.replace("\n", " ")
    assert "between 0.240 and 0.260" in text
