"""The page's tables on records made by hand: who stands beside whom, what is said, what is missing."""

import json
from pathlib import Path
from typing import Any

from page_results import results_of, rows_of, tables_of
from sweep_records import (
    fine_tuned,
    model,
    record,
    short_run,
    sweep_of,
    write_fine_tunings,
    write_results,
    write_short_runs,
)

from benchmarks.results.students import Results
from benchmarks.results.tables import Tables
from benchmarks.sweep.cells import Choice

NOWHERE = Path("nowhere")
FLOOR = {"cola": 0.0, "sst2": 0.5, "mrpc": 0.5, "rte": 0.5, "stsb": 0.0}


def default(size: str, kl: float, **values: Any) -> dict[str, Any]:
    return record(size, kl, method="homodistil", **values)


def tuned(folder: Path) -> None:
    """A teacher with a mean of 0.6 above a floor of 0.3, and a student at a quarter, both ways."""
    teacher = fine_tuned("teacher", cola=0.4, sst2=0.6, mrpc=0.6, rte=0.8, stsb=0.6)
    beside = fine_tuned("quarter", "by the teacher", cola=0.2, sst2=0.6, mrpc=0.6, rte=0.6, stsb=0.25)
    gradual = beside | {"variant": "gradual_quarter"}
    write_fine_tunings(folder, teacher, fine_tuned("quarter"), beside, gradual, **FLOOR)


def test_goals_say_what_was_reached(tmp_path):
    tuned(tmp_path)
    write_results(tmp_path, "sizes", [model("gradual_quarter", 0, 0.231)])
    write_results(tmp_path, "tokens", [model("quarter", 0, 0.14, axes="max_steps=40")])
    rows = [short_run("every_step_through_masks", 0.39, size="1/8"), short_run("same_compute", 0.42, size="1/8")]
    write_short_runs(tmp_path, rows)
    longer = [default("quarter", 0.4, num_steps=steps, axes={"budget": {"max_steps": steps}}) for steps in (20, 40)]
    tables = tables_of(tmp_path, sizes=[default("gradual_quarter", 0.2)], tokens=longer)
    assert [row.split(" | ")[1:] for row in rows_of(tables.goals())] == [
        ["0.231", "**missed** |"],
        ["0.140", "met |"],
        ["50.0%", "**missed** |"],
        ["not run yet", " |"],
        ["0.030", "met |"],
    ]
    assert {row.split(" | ", 1)[1] for row in rows_of(tables_of(NOWHERE).goals())} == {"not run yet |  |"}


def test_a_share_is_of_the_teacher_that_was_fine_tuned_on_the_same_gpu(tmp_path):
    tuned(tmp_path)
    gpu = {"machine": {"processor": "mine", "gpu": "theirs"}}
    models = json.loads((tmp_path / "fine_tunings.json").read_text())["models"]
    models += [fine_tuned("teacher", sst2=1.0) | gpu, fine_tuned("gradual_eighth", "by the teacher") | gpu]
    write_fine_tunings(tmp_path, *models, **FLOOR)
    sizes = [default("gradual_quarter", 0.2), default("gradual_eighth", 0.4)]
    rows = {
        tuple(row.split(" | ")[:3]): row.split(" | ")[-2:] for row in rows_of(tables_of(tmp_path, sizes=sizes).glue())
    }
    assert rows["| 1", "–", "teacher"] == rows["| 1", "–", "teacher, theirs"] == ["100.0%", "100.0% |"]
    assert rows["| 1/4", "1.00 M", "by the teacher"] == ["75.0%", "50.0% |"]
    assert rows["| 1/8", "1.00 M", "by the teacher, theirs"] == ["83.3%", "66.7% |"]


def test_both_ways_stand_beside_each_other_by_tokens_and_by_seconds(tmp_path):
    write_short_runs(tmp_path)

    def pair(gradual: float, at_once: float, steps: int) -> list[dict[str, Any]]:
        given = {"num_steps": steps, "axes": {"max_steps": steps}}
        return [default("gradual_eighth", gradual, **given), record("eighth", at_once, **given)]

    sizes = [default("gradual_eighth", 0.4), record("eighth", 0.5)]
    lengths = [*pair(0.7, 0.9, 500), *pair(0.3, 0.1, 1000)]
    tables = tables_of(tmp_path, sizes=sizes, lengths=lengths)
    cells = {row.split(" | ")[0].strip("| "): row.split(" | ")[3] for row in rows_of(tables.tokens())}
    assert list(cells.values()) == [
        "0.400 (-0.100, **better**)",
        "0.700 (-0.200, **better**)",
        "0.300 (+0.200, **worse**)",
    ]
    assert tables.gap_after_500_steps("lengths", "gradual_eighth", "eighth") == "-0.200, **better**"
    assert tables.equal_seconds("1/8") == "not run yet"
    ratio = {"schedule": {"one-shot": {"speedups": {"ours": {"median": 2.0}}}}}
    (tmp_path / "speed.json").write_text(json.dumps({"teacher6x384-bfloat16-eighth": ratio}))
    # twice the steps are worth 0.8 nats to pruning at once
    assert tables.equal_seconds("1/8") == "+0.700, **worse** (100 %)"


def test_baselines_stand_by_their_distance_with_the_best_rate_of_each(tmp_path):
    write_short_runs(tmp_path)
    runs = [
        record("scratch", 3.0, axes={"learning_rate": 0.1}),
        record("scratch", 2.0, axes={"learning_rate": 0.2}),
        record("every_step", 0.5, method="homodistil"),
        record("distilbert", 0.1) | {"status": "impossible", "reason": "no"},
    ]
    results = results_of(tmp_path)
    sweeps = {**results.sweeps, "baselines": sweep_of(runs, choose=Choice("learning_rate", "kl", ("variant",)))}
    tables = Tables(Results(tmp_path, sweeps, {**results.records, "baselines": runs}))
    assert rows_of(tables.baselines()) == [
        "| `every_step` | 192-8x24-704 | 0.500 |  | 60.0% |",
        "| `scratch` | 192-8x24-704 | 2.000 | +1.500, **worse** | 60.0% |",
        "| `distilbert` | can't exist | – | – | – |",
    ]
    assert tables.rates() == ["Not run yet."]  # of the default alone


def test_short_runs_stand_beside_the_defaults(tmp_path):
    kls = {"every_step": 0.5, "at_once": 0.6, "mask_0.15": 0.4}
    rows = [short_run(variant, kl, max_steps=1000) for variant, kl in kls.items()]
    noisy = [
        short_run(variant, kl, seed=s, size="x")
        for variant in ("at_once", "unclipped")
        for s, kl in enumerate((1, 1.01, 1))
    ]
    write_short_runs(tmp_path, [*rows, rows[1] | {"size": "1/8"}, *noisy[:5], noisy[5] | {"kl": 1.001}])
    tables = tables_of(tmp_path)
    gap = tables.short_gap("1000", "1/4", "mask_0.15", "every_step")
    assert (gap, tables.short_gap("500", "1/4", "every_step")) == ("-0.100, **better**", "not run yet")
    assert [row.split(" | ")[:3] for row in rows_of(tables.short_runs())[:3]] == [
        ["| `at_once`, 1,000 steps", "0.600", "0.600"],
        ["| `every_step`, 1,000 steps", "0.500 (-0.100, **better**)", "–"],
        ["| `mask_0.15`, 1,000 steps", "0.400 (-0.200, **better**)", "–"],
    ]


def test_rates_are_means_over_seeds_with_the_best_in_bold():
    kls = {(0.1, 0): 0.5, (0.1, 1): 0.7, (0.2, 0): 0.4}
    runs = [record("homodistil", kl, seed=seed, axes={"learning_rate": rate}) for (rate, seed), kl in kls.items()]
    runs += [record("scratch", 3.0, axes={"learning_rate": 0.1}), record("not_searched", 1.0)]
    results = results_of(NOWHERE)
    sweeps = {**results.sweeps, "rates": sweep_of(runs, choose=Choice("learning_rate", "kl", ("variant",)))}
    assert Tables(Results(NOWHERE, sweeps, {**results.records, "rates": runs})).rates() == [
        "|  | shape | tokens | tokens a step | 0.1 | 0.2 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `rates` | 192-8x24-704 | 1.00 M | 100,000 | 0.600 ± 0.141 (2) | **0.400** |",
        "| `rates`: `scratch` | 192-8x24-704 | 1.00 M | 100,000 | 3.000 | – |",
    ]
