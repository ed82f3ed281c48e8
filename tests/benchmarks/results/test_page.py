"""What the page of results stands on: floors of tasks, the planner's advice, default rates."""

import json
from pathlib import Path

import pytest
from rows import each

from benchmarks.results import page
from benchmarks.results.advice import advice_points, to_json
from benchmarks.results.students import Results, setting_of
from benchmarks.results.tables import Tables
from benchmarks.studies import retrieval
from benchmarks.sweep.folder import trained
from homodistil_hf.evaluation.task_runs import constant_score
from homodistil_hf.plans.advice import ADVICE_FILE, read_advice
from homodistil_hf.tasks.glue import load_task
from homodistil_hf.training.learning_rate import default_learning_rate

CHECKOUT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def committed() -> Tables:
    return Tables(Results.read(CHECKOUT / page.FOLDER, CHECKOUT / page.SWEEPS))


def test_the_floor_of_tasks_is_that_of_the_data(real_data):
    committed = json.loads((CHECKOUT / page.FOLDER / "fine_tunings.json").read_text(encoding="utf-8"))["constant"]
    scores = {task: constant_score(load_task(task, str(real_data / "glue"))) for task in committed}
    assert committed == {task: pytest.approx(score, abs=1e-4) for task, score in scores.items()}


def test_the_planners_advice_is_that_of_the_records(committed):
    points = advice_points(committed.results)
    assert json.loads(ADVICE_FILE.read_text(encoding="utf-8")) == to_json(page.TEACHER_WORDS, points)
    rising = sorted(points, key=lambda point: (point.encoder_macs, point.num_tokens))
    assert read_advice() == (page.TEACHER_WORDS, rising)


def test_at_a_sixteenth_few_seeds_decide_nothing_and_pairs_are_of_one_machine(committed):
    assert committed.short_depth_gap() == "0.054 lower (undecided)"
    assert committed.size_gap("1/16").endswith(" lower (3 seeds)")
    assert "gradual_smoothing_0.99` | 0.300 | – | 0.876 (-0.030, undecided)" in "\n".join(committed.short_runs())


def test_minutes_are_the_mean_of_the_seeds_that_were_scored():
    runs = [{"time_s": seconds} for seconds in (60.0, 120.0, 360.0)]
    assert retrieval._minutes(runs) == "3"


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
