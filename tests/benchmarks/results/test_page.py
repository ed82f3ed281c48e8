"""The page of results and the planner's advice: those in the repository, and those by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from rows import each
from sweep_records import (
    MACHINE,
    add_record,
    fine_tuned,
    model,
    record,
    write_fine_tunings,
    write_results,
    write_short_runs,
)

from benchmarks.results import page
from benchmarks.results.advice import advice_points
from benchmarks.results.students import Results, setting_of
from benchmarks.results.tables import Tables
from benchmarks.sweep.folder import trained, write_record
from homodistil_hf.evaluation.metrics import constant_score
from homodistil_hf.plans.advice import ADVICE_FILE, read_advice, to_json
from homodistil_hf.tasks.glue import load_glue
from homodistil_hf.training.learning_rate import default_learning_rate

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def committed() -> Tables:
    return Tables(Results.read(CHECKOUT / page.FOLDER, CHECKOUT / page.SWEEPS))


@pytest.fixture(scope="module")
def text() -> str:
    return (CHECKOUT / page.PAGE).read_text(encoding="utf-8")


def test_the_page_in_the_repository_is_that_of_the_records_beside_it(committed, text):
    assert text == page.page_text(committed)


def test_the_floor_of_tasks_is_that_of_the_data(real_data):
    committed = json.loads((CHECKOUT / page.FOLDER / "fine_tunings.json").read_text(encoding="utf-8"))["constant"]
    scores = {task: constant_score(load_glue(task, str(real_data / "glue"))) for task in committed}
    assert committed == {task: pytest.approx(score, abs=1e-4) for task, score in scores.items()}


def test_the_planners_advice_is_that_of_the_records(committed):
    points = to_json(page.TEACHER_WORDS, advice_points(committed.results))
    assert json.loads(ADVICE_FILE.read_text(encoding="utf-8")) == points


@each(("sweep", "hidden_size"), [("rates", 384), ("rates_batch", 384), ("rates_unseen", 128), ("rates_width", 288)])
def test_the_default_rate_is_within_a_factor_of_two_of_the_best_that_was_tried(committed, sweep, hidden_size):
    runs: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for one in trained(committed.results.records[sweep]):
        place = one["num_tokens"], one["num_tokens"] // one["num_steps"]
        runs.setdefault(place, []).append((one["evaluation"]["kl"], setting_of(one, "learning_rate")))
    told = {place: min(found)[1] for place, found in runs.items() if place[1] >= 2048}  # of fewer, page.md says more
    assert told
    for (_, tokens_per_step), best in told.items():
        assert 0.5 <= default_learning_rate(tokens_per_step, hidden_size) / best <= 2


@pytest.fixture
def write(monkeypatch, tmp_path) -> Any:
    """Writes the page into a folder of the test and returns its text; takes words of the command line."""
    names = {"FOLDER": "results", "PAGE": "results.md", "ADVICE_FILE": "advice.json"}
    for name, file in names.items():
        monkeypatch.setattr(page, name, tmp_path / file)
    monkeypatch.setattr(page, "SWEEPS", CHECKOUT / page.SWEEPS)
    (tmp_path / "results").mkdir()

    def run(*words: Any) -> str:
        page.main([*map(str, words)])
        return (tmp_path / "results.md").read_text(encoding="utf-8")

    return run


def test_the_page_is_written_from_the_records_that_there_are(write, tmp_path):
    variants = {
        "homodistil": (0.5, {}),
        "no_kl": (0.7, {"kl_weight": 0}),
        "movement": (0.51, {"importance_metric": "movement"}),
    }
    ablations = [record(variant, kl, method="homodistil", **settings) for variant, (kl, settings) in variants.items()]
    ablations[1]["machine"] = MACHINE | {"processor": "another"}
    sizes = [
        record("gradual_quarter", kl, method="homodistil", seed=seed) for seed, kl in enumerate((0.50, 0.52, 0.54))
    ]
    for name, records in (("sizes", sizes), ("ablations", ablations)):
        for one in records:
            write_record(tmp_path / "runs" / name / "results" / f"{one['cell']}.json", one)
    write_short_runs(tmp_path / "results")
    text = write("--collect", tmp_path / "runs")
    lines = " ".join(text.split())
    assert "| 1/4 | 4.0 M | 0 | – | 17 | 0.520 ± 0.020 (3) | 60.0% ± 0.0% (3) | – | – | – |" in text
    assert "| `no_kl` | `kl_weight=0` | 0.700 | +0.200, **worse** |" in text
    assert "One seed counts beyond 0.044 nats (s = 0.0158, 4 degrees of freedom)." in lines
    assert " 3 (18–18)" in lines
    assert "5 runs, 1.5 hours on a processor (1 thread, torch 2.0), another (1 thread, torch 2.0)," in lines
    assert (tmp_path / "results" / "sizes.png").stat().st_size > 1000
    assert write() == text
    words, (point,) = read_advice(tmp_path / "advice.json")
    assert "6 layers × 384" in words
    assert (point.encoder_macs, point.num_tokens, point.num_seeds) == (0.25, 1_000_000, 3)
    assert (point.kl, point.accuracy_kept, point.glue_kept) == (0.52, 0.6, None)


def test_advice_holds_what_is_kept_on_tasks_and_all_text(write, tmp_path):
    for sweep, kl, steps in (("sizes", 0.5, 10), ("tokens", 0.4, 40)):
        axes = {} if sweep == "sizes" else {"budget": {"max_steps": 100 * steps, "eval_steps": 250}}
        one = record("quarter", kl, method="homodistil", num_steps=steps, axes=axes)
        add_record(tmp_path / "results" / sweep, one)
    write_results(tmp_path / "results", "sizes", [model("quarter", 0, 0.45)])
    floor = dict.fromkeys(("cola", "sst2", "mrpc", "rte", "stsb"), 0.25)
    beside = fine_tuned("quarter", "by the teacher", cola=0.25)  # 0.45 beside 0.6
    write_fine_tunings(tmp_path / "results", fine_tuned("teacher", cola=1.0), beside, **floor)
    rates = "--teacher_rates 0.0003 --rates 0.0003"
    command = f'fine_tunings runs/sweeps/sizes --variants quarter --run_seeds 0 {rates} --ways "by the teacher"'
    assert f"    python -m benchmarks.results.{command}\n" in write()
    short, long = read_advice(tmp_path / "advice.json")[1]
    assert (short.kl, short.glue_kept) == (0.45, 0.75)
    assert short.glue_above == pytest.approx((0.45 - 0.25) / (0.6 - 0.25), abs=1e-4)
    assert (long.num_tokens, long.kl, long.glue_kept) == (4_000_000, 0.4, None)
