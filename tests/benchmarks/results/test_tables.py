"""The page's tables on records made by hand: who stands beside whom, what is said, what is missing."""

import json
from pathlib import Path
from typing import Any

import pytest
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

from benchmarks.results.changes import SIZES as SHORT_SIZES
from benchmarks.results.student_latency import configs
from benchmarks.results.students import Results
from benchmarks.results.tables import Tables
from homodistil_hf.experiments.sweep.cells import Choice

NOWHERE = Path("nowhere")
FLOOR = {"cola": 0.0, "sst2": 0.5, "mrpc": 0.5, "rte": 0.5, "stsb": 0.0}


def default(size: str, kl: float, **values: Any) -> dict[str, Any]:
    return record(size, kl, method="homodistil", **values)


def tuned(folder: Path) -> None:
    """A teacher with a mean of 0.6 above a floor of 0.3, and a student at a quarter, both ways."""
    (folder / "constant_predictions.json").write_text(json.dumps(FLOOR))
    teacher = fine_tuned("teacher", cola=0.4, sst2=0.6, mrpc=0.6, rte=0.8, stsb=0.6)
    beside = fine_tuned("quarter", "by the teacher", cola=0.2, sst2=0.6, mrpc=0.6, rte=0.6, stsb=0.25)
    write_fine_tunings(folder, teacher, fine_tuned("quarter"), beside)


def test_what_you_get_is_of_each_size(tmp_path):
    latency = {"teacher": {"median_ms": 30.4}, "192-8x24-704": {"median_ms": 7.6}}
    (tmp_path / "student_latency.json").write_text(json.dumps({"processor_time": latency}))
    tuned(tmp_path)
    quarter = [default("quarter", kl, seed=seed) for seed, kl in enumerate((0.50, 0.52, 0.54))]
    assert rows_of(tables_of(tmp_path, sizes=quarter).what_you_get()) == [
        "| 1 (teacher) | 8.0 M | 0 | 30 | 0 | 100% | 100% | – |",
        "| 1/2 | – | – | – | not run yet | – | – | – |",
        "| 1/4 | 4.0 M | 0 | 8 | 0.520 ± 0.020 (3) | 75.0% | 50.0% | 17 |",
        "| 1/4, compact | – | – | – | not run yet | – | – | – |",
        "| 1/8 | – | – | – | not run yet | – | – | – |",
    ]


def test_tasks_tell_budgets_apart_and_rates_that_were_tried(tmp_path):
    tuned(tmp_path)
    models = json.loads((tmp_path / "fine_tunings.json").read_text())["models"]
    models[0]["tried"] = {"cola": {"0.0001": 0.25, "0.0003": None}}
    write_fine_tunings(tmp_path, *models, fine_tuned("quarter", "by the teacher") | {"axes": "max_steps=40"})
    longer = default("quarter", 0.4, num_steps=40, axes={"budget": {"max_steps": 40}})
    tables = tables_of(tmp_path, sizes=[default("quarter", 0.2)], tokens=[longer])
    firsts = [row.split(" | ")[:3] for row in rows_of(tables.glue())]
    short, long = (f"{record['num_tokens'] / 1e6:.2f} M" for record in (default("quarter", 0.2), longer))
    assert firsts == [
        ["| 1", "–", "teacher"],
        ["| 1/4", short, "by the teacher"],
        ["| 1/4", short, "plain"],
        ["| 1/4", long, "by the teacher"],
        ["| –", "–", "the same for every row"],
    ]
    assert rows_of(tables.what_you_get())[2].endswith("| 75.0% | 50.0% | 17 |")  # of the short run alone
    assert tables.tried_rates()[0] == "| encoder MACs |  | held-out rows of | 0.0001 | 0.0003 |"
    assert rows_of(tables.tried_rates()) == ["| teacher | plain | CoLA | 0.250 | – |"]


def test_a_compact_student_is_listed_as_the_compact_export_has_it(tmp_path):
    compact = default("compact_quarter", 0.4)
    narrow = {"num_parameters": 3_500_000, "plan": compact["plan"] | {"num_attention_heads": 6}}
    compact["models"]["compact"] = compact["models"]["student"] | narrow
    results = tables_of(tmp_path, sizes=[compact])
    assert rows_of(results.what_you_get())[3] == "| 1/4, compact | 3.5 M | 0 | – | 0.400 | – | – | 17 |"
    (config,) = (one for name, one in configs(results.results).items() if name != "teacher")
    assert (config.num_attention_heads, config.head_dim, config.hidden_size) == (6, 24, 192)


def test_goals_say_what_was_reached(tmp_path):
    tuned(tmp_path)
    write_results(tmp_path, "sizes", [model("quarter", 0, 0.231)])
    write_results(tmp_path, "tokens", [model("quarter", 0, 0.19, axes="max_steps=40")])
    rows = [short_run("every_step_through_masks", 0.39, size="1/8"), short_run("same_compute", 0.42, size="1/8")]
    write_short_runs(tmp_path, rows)
    longer = [default("quarter", 0.4, num_steps=steps, axes={"budget": {"max_steps": steps}}) for steps in (20, 40)]
    tables = tables_of(tmp_path, sizes=[default("quarter", 0.2)], tokens=longer)
    assert [row.split(" | ")[1:] for row in rows_of(tables.goals())] == [
        ["0.231", "**missed** |"],
        ["0.190", "met |"],
        ["75.0%", "**missed** |"],
        ["50.0%", "**missed** |"],
        ["0.030", "met |"],
    ]
    assert {row.split(" | ", 1)[1] for row in rows_of(tables_of(NOWHERE).goals())} == {"not run yet |  |"}


def test_rivals_stand_by_their_distance_with_the_best_rate_of_each(tmp_path):
    write_short_runs(tmp_path)
    runs = [
        record("scratch", 3.0, axes={"learning_rate": 0.1}),
        record("scratch", 2.0, axes={"learning_rate": 0.2}),
        record("every_step", 0.5, method="homodistil"),
        record("distilbert", 0.1) | {"status": "impossible", "reason": "no"},
    ]
    results = results_of(tmp_path)
    sweeps = {**results.sweeps, "baselines": sweep_of(runs, choose=Choice("learning_rate", "kl", ("arm",)))}
    tables = Tables(Results(tmp_path, sweeps, {**results.records, "baselines": runs}))
    assert rows_of(tables.baselines()) == [
        "| `every_step` | 192-8x24-704 | 0.500 |  | 60.0% |",
        "| `scratch` | 192-8x24-704 | 2.000 | +1.500, **worse** | 60.0% |",
        "| `distilbert` | can't exist | – | – | – |",
    ]
    assert [row.split(" | ")[4:] for row in rows_of(tables.rates())] == [["3.000", "**2.000** |"]]


def test_budgets_rise_with_those_of_both_sweeps(tmp_path):
    write_results(tmp_path, "tokens", [model("quarter", 0, 0.41, axes="max_steps=5")])
    budgets = [default("quarter", 2 / s, num_steps=s, axes={"budget": {"max_steps": s}}) for s in (40, 5)]
    own = [default("quarter", kl, seed=seed) for seed, kl in enumerate((0.2, 0.3))]
    tables = tables_of(tmp_path, sizes=[*own, default("half", 0.1)], tokens=budgets)
    assert rows_of(tables.tokens()) == [
        "| 0.50 M | 0.400 | 0.410 | 60.0% | 8 |",
        "| 1.00 M | 0.250 ± 0.071 (2) | – | 60.0% ± 0.0% (2) | 17 |",
        "| 4.00 M | 0.050 | – | 60.0% | 67 |",
    ]
    assert rows_of(tables.on_all_text()) == ["| 1/4 | 0.50 M | 0.410 | 0.700 | 0.400 |"]


def test_shapes_stand_beside_the_first_of_their_size(tmp_path):
    write_short_runs(tmp_path)
    kls = {8: 0.5, 6: 0.4, 4: 0.51}
    shapes = [record("homodistil", kl, heads=heads, student=str(heads)) for heads, kl in kls.items()]
    other = record("homodistil", 0.2, macs=500, student="half")
    assert rows_of(tables_of(tmp_path, shapes=[*shapes, other]).shapes()) == [
        "| 1/4 | 192-8x24-704 | 192-6x24-704 0.400 (-0.100, **better**); 192-8x24-704 0.500; "
        "192-4x24-704 0.510 (+0.010, within noise) |",
        "| 1/2 | 192-8x24-704 | 192-8x24-704 0.200 |",
    ]


def test_tasks_one_by_one_beside_their_teacher_and_a_model_that_learned_nothing(tmp_path):
    tuned(tmp_path)
    tables = tables_of(tmp_path, sizes=[default("quarter", 0.2, num_steps=20)])
    budget = tables.tokens()[2].split(" | ")[0].removeprefix("| ")
    assert rows_of(tables.glue()) == [
        "| 1 | – | teacher | 0.400 | 0.600 | 0.600 | 0.800 | 0.600 | 0.600 | 100.0% | 100.0% |",
        f"| 1/4 | {budget} | by the teacher | 0.200 | 0.600 | 0.600 | 0.600 | 0.250 | 0.450 | 75.0% | 50.0% |",
        f"| 1/4 | {budget} | plain | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | 0.500 | 83.3% | 66.7% |",
        "| – | – | the same for every row | 0.000 | 0.500 | 0.500 | 0.500 | 0.000 | 0.300 | 50.0% | 0% |",
    ]


def test_ablations_stand_beside_the_way_that_they_change(tmp_path):
    write_short_runs(tmp_path)
    runs = [
        record("homodistil", 0.5, pruning_end_fraction=0.5),
        record("late", 0.7, method="homodistil", pruning_end_fraction=0.9),
        record("own_dropout", 0.51, method="homodistil", pruning_end_fraction=0.5, student_dropout=None),
        record("one_shot", 0.6),
    ]
    results = results_of(tmp_path, ablations=runs)
    results.records["ablations"].pop()  # without a record of the last cell
    assert rows_of(Tables(results).ablations()) == [
        "| `late` | `pruning_end_fraction=0.9` | 0.700 | +0.200, **worse** |",
        "| `own_dropout` | `student_dropout=None` | 0.510 | +0.010, within noise |",
        "| `one_shot` | `method=one_shot`, `pruning_end_fraction=default` | – | not run yet |",
    ]


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
    assert [row.split(" | ")[:4] for row in rows_of(tables.short_runs())[:3]] == [
        ["| 1,000", "`at_once`", "0.600", "0.600"],
        ["| 1,000", "`every_step` − `at_once`", "0.500 (-0.100, **better**)", "–"],
        ["| 1,000", "`mask_0.15` − `at_once`", "0.400 (-0.200, **better**)", "–"],
    ]


@pytest.mark.parametrize("size", SHORT_SIZES)
def test_as_much_computation_is_more_steps_of_a_narrow_student(size):
    more = int(tables_of(NOWHERE).more_steps(size).removesuffix(" %"))
    assert 5 < more < 20


def test_rates_are_means_over_seeds_with_the_best_in_bold():
    kls = {(0.1, 0): 0.5, (0.1, 1): 0.7, (0.2, 0): 0.4}
    runs = [record("homodistil", kl, seed=seed, axes={"learning_rate": rate}) for (rate, seed), kl in kls.items()]
    runs += [record("scratch", 3.0, axes={"learning_rate": 0.1}), record("not_searched", 1.0)]
    results = results_of(NOWHERE)
    sweeps = {**results.sweeps, "rates": sweep_of(runs, choose=Choice("learning_rate", "kl", ("arm",)))}
    assert Tables(Results(NOWHERE, sweeps, {**results.records, "rates": runs})).rates() == [
        "|  | shape | tokens | tokens a step | 0.1 | 0.2 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `rates`: `homodistil` | 192-8x24-704 | 1.00 M | 100,000 | 0.600 ± 0.141 (2) | **0.400** |",
        "| `rates`: `scratch` | 192-8x24-704 | 1.00 M | 100,000 | 3.000 | – |",
    ]


def test_a_family_stands_beside_runs_of_their_own(tmp_path):
    def run(variant, student, macs, kl, num_tokens):
        return {
            "variant": variant,
            "student": student,
            "encoder_macs": macs,
            "teacher_macs": 1000,
            "kl": kl,
            "num_tokens": num_tokens,
        }

    members = [run("chain", *facts, 10**6) for facts in (("macs=0.5", 505, 0.2), ("macs=0.25", 250, 0.4))]
    (tmp_path / "family.json").write_text(
        json.dumps({"runs": [*members, run("alone", "macs=0.25", 250, 0.45, 2 * 10**6)]})
    )
    assert tables_of(tmp_path).family() == [
        "| encoder MACs | chain | alone |",
        "| --- | --- | --- |",
        "| 0.505 | 0.200 (1.00 M) | – |",
        "| 0.250 | 0.400 (1.00 M) | 0.450 (2.00 M) |",
    ]


def test_what_there_is_no_record_of_is_not_run_yet():
    tables = tables_of(NOWHERE)
    for name in ("tokens", "shapes", "glue", "short_runs", "rates", "family", "on_all_text", "baselines"):
        assert getattr(tables, name)() == ["Not run yet."], name
    assert tables.noise() == tables.short_gap("500", "1/4", "gradual") == "not run yet"
