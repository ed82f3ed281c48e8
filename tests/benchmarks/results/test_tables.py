"""The page's tables on records made by hand: who stands beside whom, what is said, what is missing."""

import json
from pathlib import Path
from typing import Any

from page_results import results_of, rows_of, tables_of
from sweep_records import METHODS, graded, model, record, sweep_of, teacher, write_results

from benchmarks.results.students import Results
from benchmarks.results.tables import Tables
from homodistil_hf.experiments.sweep.cells import Choice

NOWHERE = Path("nowhere")


def absent(arm: str) -> dict[str, Any]:
    return record(arm, 0.1) | {"status": "impossible", "reason": "no"}


def test_what_you_get_is_of_each_size_and_has_a_rival_at_a_quarter(tmp_path):
    (tmp_path / "constant_predictions.json").write_text(json.dumps({"cola": 0.2, "rte": 0.6}))
    latency = {"teacher": {"median_ms": 30.4}, "192-8x24-704": {"median_ms": 7.6}}
    (tmp_path / "student_latency.json").write_text(json.dumps({"processor_time": latency}))
    quarter = [teacher(0.8), *(graded(one, 0.6) for one in METHODS[:3]), METHODS[3]]
    table = tables_of(tmp_path, methods_quarter=quarter).what_you_get()
    assert rows_of(table) == [
        "| teacher | 1 | 8.0 M | 0 | 30 | 0 | 100% | 100% | – |",
        "| HomoDistil | 1/2 | – | – | – | not run yet | – | – | – |",
        "| HomoDistil | 1/4 | 4.0 M | 0 | 8 | 0.520 ± 0.020 (3) | 75.0% ± 0.0% (3) | 50.0% ± 0.0% (3) | 17 |",
        "| pruned at once | 1/4 | 4.0 M | 0 | 8 | 0.600 | – | – | 17 |",
        "| HomoDistil | 1/8 | – | – | – | not run yet | – | – | – |",
    ]


def test_methods_stand_by_their_distance_with_what_they_compute():
    whole, narrow = (dict.fromkeys(("hidden", "attention", "ffn"), share) for share in (1.0, 0.5))
    slow = METHODS[0] | {"kept_fractions": [narrow | {"step": 10}]}
    once = METHODS[3] | {"kept_fractions": [narrow | {"step": 10}], "method_settings": {"num_scoring_batches": 1}}
    slow["kept_fractions"].insert(0, whole | {"step": 10})
    found = tables_of(NOWHERE, methods_quarter=[slow, METHODS[1], once, METHODS[9], absent("distilbert")])
    rows = rows_of(found.methods("methods_quarter", "methods_half"))
    assert [row.split(" | ")[1] for row in rows[:4]] == ["`homodistil`", "`one_shot`", "`scratch`", "`distilbert`"]
    assert rows[0].startswith("| 1/4 | `homodistil` | 192-8x24-704 | 0.510 ± 0.014 (2) |  | 60.0%")
    # Whole steps are a little more than four times as dear as narrow ones, whose teacher costs the same.
    share = (10 * 1750 + 4000) / found.of("methods_quarter", "homodistil")["run_macs"].iloc[0]
    assert rows[1].endswith(f"| 0.600 | +0.100, undecided | 60.0% | – | – | {share:.2f} |")
    assert found.share("methods_quarter", "one_shot") == f"{share:.2f}"
    assert rows[3:] == [
        "| 1/4 | `distilbert` | can't exist | – | – | – | – | – | – |",
        "| 1/2 | not run yet | – | – | – | – | – | – | – |",
    ]


def test_differences_are_less_homodistil_with_the_same_seeds():
    tables = tables_of(NOWHERE, methods_quarter=METHODS)
    assert tables.gap("kl", "methods_quarter", "one_shot") == "+0.100 ± 0.020 (3), **worse**"
    assert tables.gap("kl", "methods_quarter", "scratch", "one_shot") == "+2.380 ± 0.970 (3), within noise"
    assert tables.gap("kl", "methods_quarter", "tinybert") == "not run yet"
    assert tables.gap("glue", "methods_quarter", "one_shot") == "not run yet"


def test_budgets_rise_and_a_run_of_two_sweeps_counts_once():
    budgets = [
        record(arm, kl, num_steps=steps, axes={"budget": {"max_steps": steps}})
        for steps in (40, 5)
        for arm, kl in (("homodistil", 0.5), ("one_shot", 0.4))
    ]
    again = METHODS[0] | {"cell": "homodistil,max_steps=10,seed=0"}
    elsewhere = record("homodistil", 0.1, heads=6, num_steps=80)
    tables = tables_of(NOWHERE, methods_quarter=METHODS, tokens_planned=[*budgets, again, elsewhere])
    rows = rows_of(tables.tokens())
    assert [row.split(" | ")[0] for row in rows] == ["| 0.50 M", "| 1.00 M", "| 4.00 M"]
    assert rows[0] == "| 0.50 M | 0.500 | 0.400 | -0.100, **better** | – | – | 60.0% | 8 |"
    assert rows[1].startswith("| 1.00 M | 0.520 ± 0.020 (3) | 0.620 ± 0.035 (3) | +0.100 ± 0.020 (3), **worse**")


def test_shapes_stand_beside_the_first_of_their_size():
    kls = {8: 0.5, 6: 0.4, 4: 0.51}
    shapes = [record("homodistil", kl, heads=heads, student=str(heads)) for heads, kl in kls.items()]
    other = record("homodistil", 0.2, macs=500, student="half")
    tables = tables_of(NOWHERE, methods_quarter=METHODS, shapes=[*shapes, other])
    assert rows_of(tables.shapes()) == [
        "| 1/4 | 192-8x24-704 | 192-6x24-704 0.400 (-0.100, **better**); 192-8x24-704 0.500; "
        "192-4x24-704 0.510 (+0.010, within noise) |",
        "| 1/2 | 192-8x24-704 | 192-8x24-704 0.200 |",
    ]


def test_tasks_one_by_one_beside_their_teacher_and_a_model_that_learned_nothing(tmp_path):
    floor = {"cola": 0.0, "sst2": 0.5, "mrpc": 0.5, "rte": 0.5, "stsb": 0.0}
    (tmp_path / "constant_predictions.json").write_text(json.dumps(floor))
    own = [graded(METHODS[0], 0.35, cola=0.2, rte=0.5), graded(METHODS[1], 0.55, cola=0.4, rte=0.7)]
    far = graded(METHODS[9], 0.4, cola=0.1, rte=0.5)  # told by its mean elsewhere
    quarter = [teacher(0.6, cola=0.4, rte=0.8), *own, far, METHODS[3]]
    assert rows_of(tables_of(tmp_path, methods_quarter=quarter).glue()) == [
        "| 1 | teacher | 0.400 | – | – | 0.800 | – | 0.600 | 100% | 100% |",
        "| 1/4 | `homodistil` | 0.300 ± 0.141 (2) | – | – | 0.600 ± 0.141 (2) | – | 0.450 ± 0.141 (2) "
        "| 75.0% ± 23.6% (2) | 50.0% ± 47.1% (2) |",
        "| – | the same for every row | 0.000 | 0.500 | 0.500 | 0.500 | 0.000 | 0.300 | 50.0% | 0% |",
    ]


def test_levers_stand_beside_the_way_that_they_change():
    runs = [
        record("homodistil", 0.5, pruning_end_fraction=0.5),
        record("late", 0.7, method="homodistil", pruning_end_fraction=0.9),
        record("own_dropout", 0.51, method="homodistil", pruning_end_fraction=0.5, student_dropout=None),
        record("one_shot", 0.6),
    ]
    held = [record("one_shot", 0.6), record("one_shot_held", 0.5, method="one_shot", learning_rate=1.0)]
    results = results_of(NOWHERE, methods_quarter=METHODS, ablations=runs, holds=held)
    results.records["ablations"].pop()  # without a record of the last cell
    assert rows_of(Tables(results).levers()) == [
        "| `late` − `homodistil` | `pruning_end_fraction=0.9` | 0.700 | +0.200, **worse** |",
        "| `own_dropout` − `homodistil` | `student_dropout=None` | 0.510 | +0.010, within noise |",
        "| `one_shot` − `homodistil` | `method=one_shot`, `pruning_end_fraction=default` | – | not run yet |",
        "| `one_shot_held` − `one_shot` | `learning_rate=1.0` | 0.500 | -0.100, **better** |",
    ]


def test_levers_at_two_budgets_stand_beside_the_same_budget():
    runs = [
        record(arm, kl, method="homodistil", num_steps=steps, axes={"budget": {"max_steps": steps}}, **settings)
        for steps in (10, 20)
        for arm, kl, settings in (("homodistil", 5 / steps, {}), ("no_kl", 6 / steps, {"kl_weight": 0}))
    ]
    assert rows_of(tables_of(NOWHERE, methods_quarter=METHODS, mine=runs).levers()) == [
        "| `no_kl` − `homodistil` | `kl_weight=0`, max_steps=10 | 0.600 | +0.100, **worse** |",
        "| `no_kl` − `homodistil` | `kl_weight=0`, max_steps=20 | 0.300 | +0.050, **worse** |",
    ]


def test_all_held_out_text_has_its_own_table(tmp_path):
    half = [record("homodistil", 0.9, macs=500), record("one_shot", 0.2, macs=500)]
    models = [model("homodistil", seed, 0.5) for seed in range(3)]
    write_results(tmp_path, "methods_half", [model("homodistil", 0, 0.2), model("one_shot", 0, 0.205)])
    write_results(tmp_path, "methods_quarter", [*models, *(model("one_shot", s, 0.5 + 0.01 * s) for s in range(3))])
    assert rows_of(tables_of(tmp_path, methods_quarter=METHODS, methods_half=half).on_all_text())[:2] == [
        "| 1/2 | `homodistil` | 0.200 | 0.700 | 0.400 | 3.000 |",
        "| 1/2 | `one_shot` − `homodistil` | +0.005, within noise | +0.000, within noise | +0.000, within noise "
        "| +0.000, within noise |",
    ]


def test_short_runs_stand_beside_the_defaults(tmp_path):
    kls = {"every_step": 0.5, "at_once": 0.6, "mask_0.45": 0.4, "at_once_through_masks": 0.609}
    rows = [{"arm": arm, "size": "1/4", "seed": 0, "max_steps": 1000, "kl": kl} for arm, kl in kls.items()]
    (tmp_path / "levers.json").write_text(json.dumps({"rows": [*rows, rows[1] | {"size": "1/8"}]}))
    tables = tables_of(tmp_path, methods_quarter=METHODS)
    gap = tables.short_gap("1000", "1/4", "mask_0.45", "every_step")
    assert (gap, tables.short_gap("500", "1/4", "every_step")) == ("-0.100, **better**", "not run yet")
    assert tables.short_runs() == [
        "| steps |  | 1/4: KL, nats (difference) | 1/8: KL, nats (difference) |",
        "| --- | --- | --- | --- |",
        "| 1,000 | `every_step` − `at_once` | 0.500 (-0.100, **better**) | – |",
        "| 1,000 | `at_once` | 0.600 | 0.600 |",
        "| 1,000 | `mask_0.45` − `at_once` | 0.400 (-0.200, **better**) | – |",
        "| 1,000 | `at_once_through_masks` − `at_once` | 0.609 (+0.009, within noise) | – |",
    ]


def test_rates_are_means_over_seeds_with_the_best_in_bold():
    kls = {(0.1, 0): 0.5, (0.1, 1): 0.7, (0.2, 0): 0.4}
    runs = [record("homodistil", kl, seed=seed, axes={"learning_rate": rate}) for (rate, seed), kl in kls.items()]
    runs.append(record("scratch", 3.0, axes={"learning_rate": 0.1}))
    results = results_of(NOWHERE)
    sweeps = {**results.sweeps, "rates": sweep_of(runs, choose=Choice("learning_rate", "kl", ("arm",)))}
    assert Tables(Results(NOWHERE, sweeps, {**results.records, "rates": runs})).rates() == [
        "|  | shape | tokens | tokens a step | 0.1 | 0.2 |",
        "| --- | --- | --- | --- | --- | --- |",
        "| `homodistil` | 192-8x24-704 | 1.00 M | 100,000 | 0.600 ± 0.141 (2) | **0.400** |",
        "| `scratch` | 192-8x24-704 | 1.00 M | 100,000 | 3.000 | – |",
    ]


def test_a_family_stands_beside_runs_of_their_own(tmp_path):
    def run(arm, student, macs, kl, num_tokens):
        return {
            "arm": arm,
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
    for name in ("tokens", "shapes", "glue", "fine_tunings", "levers", "short_runs", "rates", "family", "on_all_text"):
        assert getattr(tables, name)() == ["Not run yet."], name
    assert tables.noise() == tables.along("methods_half") == tables.share("methods_half", "one_shot") == "not run yet"
