"""The page of results and a sweep's table, from records made by hand: means, spreads, verdicts, what is missing."""

import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from sweep_records import MACHINE, METHODS, add_record, record

from homodistil_hf.experiments.plots import discrepancy_curves, plot_sweep, quality_points
from homodistil_hf.experiments.sweep.cells import TEACHER, Cell, Choice, Sweep
from homodistil_hf.experiments.sweep.folder import record_head, write_record
from homodistil_hf.experiments.sweep.statistics import (
    Spread,
    chosen,
    differences,
    over_seeds,
    pooled_std,
    searches,
)
from homodistil_hf.experiments.sweep.tables import sweep_table, tokens_per_second
from homodistil_hf.plans.advice import read_advice

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
# One-shot's differences are .10, .08, .12 and pruned-first's .01, .00, .02: variances .0004 and .0001, pooled .00025.
SIZE = "student=192-12x16-704,max_steps=1000"
NOISE = math.sqrt(0.00025)


def test_seeds_are_taken_together():
    groups = list(over_seeds(METHODS).values())
    assert [len(group) for group in groups] == [3, 3, 3, 3]
    spread = Spread.of(one["evaluation"]["kl"] for one in groups[0])
    assert (spread.mean, spread.std, spread.n) == (pytest.approx(0.52), pytest.approx(0.02), 3)
    assert str(spread) == "0.520 ± 0.020 (3)"
    other = [record("homodistil", 0.4, seed=0, eval_steps=7)]
    assert len(over_seeds([*METHODS, *other])) == 5


def test_differences_are_seed_by_seed():
    own, other = METHODS[:3], METHODS[3:5]
    assert differences(other, own, "kl") == [pytest.approx(0.1), pytest.approx(0.08)]
    assert differences(METHODS[5:6], own[:2], "kl") == []
    assert pooled_std([[0.1, 0.08, 0.12], [0.01, 0.0, 0.02], [7.0]]) == (pytest.approx(NOISE), 4)
    assert pooled_std([[1.0]]) is None


def test_a_family_stands_beside_runs_of_their_own():
    rows_of = runpy.run_path(str(BENCHMARKS / "results" / "family.py"))["family_rows"]
    alone = [record("homodistil", kl, macs=macs, num_steps=10) for macs, kl in ((500, 0.2), (250, 0.4))]
    family = record("family", 0.9, macs=125, num_steps=30, accuracy=0.2, method="homodistil")
    evaluation = {"kl": 0.25, "mlm_accuracy": 0.41}
    family["snapshots"] = [
        {"name": "a", "step": 6, "encoder_macs": 505, "evaluation": evaluation},
        {"name": "b", "step": 12, "encoder_macs": 250, "evaluation": evaluation | {"kl": 0.5}},
    ]
    assert rows_of(alone) == []
    at_once = record("one_shot", 0.3, macs=250, num_steps=10)
    lines = rows_of([at_once, *alone, family])
    assert lines[-3:] == [
        "| 0.505 | 0.60 M tokens | 0.250 | 0.410 | 1.00 M tokens | 0.200 | 0.300 |",
        "| 0.250 | 1.20 M tokens | 0.500 | 0.410 | 1.00 M tokens | 0.400 | 0.300 |",
        "| 0.125 | 3.00 M tokens | 0.900 | 0.200 | not run | – | – |",
    ]


RATES = [
    record(arm, kl, seed=seed, axes={"learning_rate": rate}, num_steps=steps)
    for arm, rate, steps, kls in (
        ("a", 1e-3, 10, (0.9, 0.7)),
        ("a", 1e-4, 10, (0.75, 0.75)),
        ("a", 1e-3, 20, (0.5, 0.6)),
        ("a", 1e-4, 20, (0.4, 0.6)),
        ("b", 1e-3, 10, (0.3, 0.3)),
    )
    for seed, kl in enumerate(kls)
]
CHOICE = Choice("learning_rate", "kl", ("arm", "max_steps"))


def test_the_best_rate_is_searched_in_each_group():
    assert best_values(RATES, CHOICE) == {("a", 10): 1e-4, ("a", 20): 1e-4, ("b", 10): 1e-3}
    assert [one["evaluation"]["kl"] for one in chosen(RATES, CHOICE)] == [0.75, 0.75, 0.4, 0.6, 0.3, 0.3]
    assert chosen(RATES, None) == RATES
    rising = [record("a", 1.0, accuracy=0.1 + rate, axes={"learning_rate": rate}) for rate in (0.1, 0.2)]
    assert best_values(rising, Choice("learning_rate", "mlm_accuracy", ("arm",))) == {("a",): 0.2}


def best_values(records: Any, choice: Choice) -> dict[Any, Any]:
    return {key: search.best for key, search in searches(records, choice).items()}


def at_the_edge(records: Any, choice: Choice) -> list[Any]:
    return [key for key, search in searches(records, choice).items() if search.is_at_the_edge]


def test_a_best_value_at_the_edge_is_told():
    rates = [record("a", kl, axes={"learning_rate": rate}) for rate, kl in ((1e-4, 0.5), (2e-4, 0.4), (4e-4, 0.6))]
    search = Choice("learning_rate", "kl", ("arm",))
    assert at_the_edge(rates, search) == []
    assert at_the_edge(rates[:2], search) == [("a",)]
    assert at_the_edge(rates[:1], search) == []
    alone = sweep_table(sweep_of(rates[:1], choose=search), rates[:1])
    assert "- one value tried, so not searched: a" in alone
    assert "| **" not in alone
    note = "- best at the lowest or highest value tried, so perhaps better beyond: a"
    assert note in sweep_table(sweep_of(rates[:2], choose=search), rates[:2])
    assert note not in sweep_table(sweep_of(rates, choose=search), rates)
    assert "| **0.0002** |" in sweep_table(sweep_of(rates, choose=search), rates)


def sweep_of(records: Any, **changes: Any) -> Sweep:
    cells = tuple(
        Cell(**{key: one[key] for key in ("arm", "axes", "method", "settings", "method_settings")}) for one in records
    )
    return Sweep("mine", "What it is.", "runs/mine", cells, **changes)


def test_a_table_marks_the_best_and_names_what_is_missing():
    records = [
        *RATES[:4],
        record_head(Cell("c", {"seed": 0}, "x", {})) | {"status": "impossible", "reason": "no layers"},
        record_head(Cell("d", {"seed": 0}, "x", {})) | {"status": "failed", "error": "MemoryError"},
    ]
    lines = sweep_table(sweep_of([*RATES[:4], RATES[-1], *records[4:]], choose=CHOICE), records).splitlines()
    assert lines[:3] == ["# mine", "", "What it is."]
    assert lines[4].startswith("|  | learning_rate | parameters | encoder MACs | tokens | KL, nats | accuracy |")
    assert lines[6] == "| teacher | – | 8.00 M | 1.000 | – | 0.000 | 0.500 | 2.000 | – |"
    figures = "0.300 ± 0.000 (2) | 3.000 ± 0.000 (2) | 1,000 |"
    assert lines[7] == f"| a | **0.0001** | 4.00 M | 0.250 | 1.00 M | 0.750 ± 0.000 (2) | {figures}"
    assert lines[8] == f"| a | 0.001 | 4.00 M | 0.250 | 1.00 M | 0.800 ± 0.141 (2) | {figures}"
    assert "- impossible: `c,seed=0`: no layers" in lines
    assert "- failed: `d,seed=0`: MemoryError" in lines
    assert lines[-1] == "- not run: `b,learning_rate=0.001,seed=1`"


def test_a_table_puts_sizes_first_then_arms_then_the_search():
    records = [
        record(arm, 0.5, axes={"learning_rate": rate, "max_steps": steps})
        for rate in (2e-3, 1e-3)
        for arm in ("b", "a")
        for steps in (20, 10)
    ]
    search = Choice("learning_rate", "kl", ("arm", "max_steps"))
    lines = sweep_table(sweep_of(records, choose=search), records).splitlines()
    assert [line.replace("*", "").split(" | ")[:3] for line in lines[7:15]] == [
        [f"| {arm}", rate, steps] for steps in ("10", "20") for arm in ("b", "a") for rate in ("0.001", "0.002")
    ]


def test_scores_stand_beside_their_teachers():
    students = [record("a", 0.5, seed=seed) for seed in (0, 1)]
    for student, mean in zip(students, (0.7, 0.8), strict=True):
        student["evaluate"] = {"glue": {"settings": {}, "results": {"mean": mean}}}
    teacher = record_head(Cell(TEACHER, {}, TEACHER, {TEACHER: "t"})) | {"status": "done"}
    teacher["evaluate"] = {"glue": {"settings": {}, "results": {"mean": 0.9}}}
    sweep = sweep_of([teacher, *students], evaluate={"glue": {}})
    lines = sweep_table(sweep, [teacher, *students]).splitlines()
    assert lines[4].endswith("| tokens/s | glue |")
    assert lines[6].endswith("| – | 0.900 |")
    assert lines[7].endswith("| 1,000 | 0.750 ± 0.071 (2) |")
    assert len(lines) == 8
    del students[1]["evaluate"], teacher["evaluate"]
    assert sweep_table(sweep, [teacher, *students]).splitlines()[-1] == "- glue not run: `teacher`, `a,seed=1`"


def test_a_table_of_nothing_says_so():
    table = sweep_table(sweep_of(METHODS), [])
    assert "- not run: none of its 12 cells" in table
    assert "| " not in table


def test_curves_and_points_are_means_in_millions(tmp_path):
    curves = discrepancy_curves(METHODS[:3])
    assert [place for place, _ in curves["homodistil"]] == [0.0, 0.5, 1.0]
    assert [spread.mean for _, spread in curves["homodistil"]] == [pytest.approx(x) for x in (0.0, 1.04, 0.52)]
    halves = [record("homodistil", 0.2, macs=500), record("homodistil", 0.3, num_steps=20)]
    points = quality_points([*METHODS[:3], *halves], "tokens")
    assert {label: [(place, round(spread.mean, 3)) for place, spread in line] for label, line in points.items()} == {
        "homodistil, macs=0.25": [(1, 0.52), (2, 0.3)],
        "homodistil, macs=0.5": [(1, 0.2)],
    }
    assert list(quality_points([*METHODS[:3], halves[0]], "parameters")) == ["homodistil"]
    assert tokens_per_second(METHODS[0]) == 1000
    files = plot_sweep([*METHODS, *halves], tmp_path / "mine")
    assert [file.name for file in files] == ["mine-discrepancy.png", "mine-tokens.png"]
    assert plot_sweep([], tmp_path / "none") == []


@pytest.fixture
def verdicts(monkeypatch) -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / "results" / "verdicts.py"))


def test_noise_is_that_of_paired_differences_of_methods_in_the_same_league(verdicts):
    noise = verdicts["noise_of"](METHODS)
    assert (noise.std, noise.freedom) == (pytest.approx(NOISE), 4)
    assert noise.threshold() == pytest.approx(2.776 * NOISE, rel=1e-3)  # of four degrees of freedom
    assert noise.threshold(4) == pytest.approx(noise.threshold() / 2)
    assert verdicts["noise_of"](METHODS[:3]) == verdicts["noise_of"]([]) == verdicts["Noise"]()


@pytest.mark.parametrize(
    ("worse", "expected"), [(0.55, "reproduced"), (0.53, "within noise"), (0.45, "not reproduced")]
)
def test_a_verdict_is_the_rules(verdicts, worse, expected):
    """The threshold of one seed is 0.0439."""
    claim = verdicts["Claim"]("no_kl", "homodistil", "the KL term helps")
    arms = {"no_kl": [record("no_kl", worse)], "homodistil": [record("homodistil", 0.5)]}
    gap, words = verdicts["verdict"](claim, arms, verdicts["noise_of"](METHODS))
    assert gap.mean == pytest.approx(worse - 0.5)
    assert words.strip("*") == expected
    assert verdicts["verdict"](claim, arms, verdicts["Noise"]())[1] == "undecided: the noise was not measured"
    del arms["no_kl"]
    failed = {"no_kl": "FloatingPointError: gradients"}
    words = "`no_kl` failed: FloatingPointError: gradients"
    assert verdicts["verdict"](claim, arms, verdicts["Noise"](), failed) == (None, words)
    assert verdicts["verdict"](claim, arms, verdicts["Noise"]()) == (None, "not run: `no_kl`")


def test_a_setting_that_never_acted_decides_nothing(verdicts):
    claim = verdicts["Claim"]("homodistil", "guard", "the discrepancy guard helps")
    arms = {"guard": [record("guard", 0.5)], "homodistil": [record("homodistil", 0.5)]}
    _, words = verdicts["verdict"](claim, arms, verdicts["noise_of"](METHODS))
    assert words == "no difference at all: the setting never acted"


def test_students_of_different_sizes_decide_nothing(verdicts):
    claim = verdicts["Claim"]("no_kl", "homodistil", "the KL term helps")
    arms = {"no_kl": [record("no_kl", 0.9, macs=260)], "homodistil": [record("homodistil", 0.5)]}
    gap, words = verdicts["verdict"](claim, arms, verdicts["noise_of"](METHODS))
    assert (round(gap.mean, 6), words) == (0.4, "undecided: 0.260 against 0.250 of the encoder MACs")


def test_layers_of_different_widths_count_without_their_padding(verdicts):
    uneven = record("global_widths", 0.9, macs=411)
    uneven["models"]["compact"] = uneven["models"]["student"] | {"encoder_macs": 250, "num_parameters": 3_000_000}
    claim = verdicts["Claim"]("homodistil", "global_widths", "layers should compete for widths")
    arms = {"global_widths": [uneven], "homodistil": [record("homodistil", 0.5)]}
    assert verdicts["verdict"](claim, arms, verdicts["noise_of"](METHODS))[1] == "**not reproduced**"
    table = sweep_table(sweep_of([uneven]), [uneven])
    assert "| global_widths | 3.00 M (4.00 padded) | 0.250 (0.411 padded) |" in table


def test_an_order_along_training_obeys_the_noise_of_each_step(verdicts):
    order, words = verdicts["along_training"], "**reproduced**"
    noises = verdicts["noise_along"](METHODS)
    assert noises[10] == verdicts["noise_of"](METHODS)
    assert noises[5].std == pytest.approx(2 * NOISE)  # every KL is twice the last there
    assert noises[0].std == 0
    along = order(METHODS[:3], METHODS[3:6], noises)
    assert (along.nearer, along.farther, along.level, along.words) == (2, 0, 0, words)
    assert order(METHODS[3:6], METHODS[:3], noises).words == "**not reproduced**"
    assert order(METHODS[:3], METHODS[6:9], noises).words == "within noise"
    assert order(METHODS[:3], METHODS[3:6], {}) is None
    assert order(METHODS[:3], [], noises) is None


def test_two_seeds_measure_no_noise(verdicts):
    two = [one for one in METHODS if one["axes"]["seed"] < 2]
    assert verdicts["noise_of"](two) == verdicts["Noise"]()


def test_tasks_one_by_one_beside_their_teacher(monkeypatch):
    glue_rows = runpy.run_path(str(BENCHMARKS / "results" / "glue.py"))["glue_rows"]

    def graded(one: dict[str, Any], cola: float, rte: float) -> dict[str, Any]:
        tasks = {"cola": {"mean": cola}, "rte": {"mean": rte}}
        return one | {"evaluate": {"glue": {"settings": {}, "results": {"mean": (cola + rte) / 2, "tasks": tasks}}}}

    teacher = record_head(Cell(TEACHER, {}, TEACHER, {TEACHER: "t"})) | {"status": "done"}
    students = [graded(METHODS[0], 0.2, 0.5), graded(METHODS[1], 0.4, 0.7)]
    lines = glue_rows([graded(teacher, 0.4, 0.8), *students, METHODS[3]])
    assert lines[2:] == [
        "|  | CoLA | RTE | mean | kept |",
        "| --- | --- | --- | --- | --- |",
        "| teacher | 0.400 | 0.800 | 0.600 | 100.0% |",
        "| homodistil | 0.300 ± 0.141 (2) | 0.600 ± 0.141 (2) | 0.450 ± 0.141 (2) | 75.0% |",
    ]
    assert glue_rows(students)[-1].endswith("| – |")
    lines = glue_rows([graded(teacher, 0.4, 0.8), *students], {"cola": 0.0, "rte": 0.6, "sst2": 0.5})
    assert lines[-1] == "| the same for every row | 0.000 | 0.600 | 0.300 | 50.0% |"
    assert glue_rows(METHODS) == []


def test_arms_are_paired_by_seed(verdicts):
    own, other = verdicts["with_common_seeds"](METHODS[:3], [METHODS[5], METHODS[3]])
    assert [record["axes"]["seed"] for record in own] == [record["axes"]["seed"] for record in other] == [0, 2]


def test_guidance_by_hand(monkeypatch):
    """At a quarter 60 % and 64 % of the teacher's accuracy, from 1 and 4 million tokens."""
    guidance = runpy.run_path(str(BENCHMARKS / "results" / "guidance.py"))
    students = [
        record("homodistil", 0.6, accuracy=0.30),
        record("homodistil", 0.7, accuracy=0.20, learning_rate=1.0),
        record("homodistil", 0.5, accuracy=0.32, num_steps=40),
        record("homodistil", 0.45, accuracy=0.33, num_steps=40, heads=6, student="six"),
        record("homodistil", 0.2, accuracy=0.45, macs=510),
        record("homodistil", 0.2, accuracy=0.45, macs=700),
        record("five_layers", 0.55, accuracy=0.35, method="shallow") | {"method_settings": {"num_layers": 5}},
    ]
    students[0]["evaluate"] = {"glue": {"settings": {}, "results": {"mean": 0.6}}}
    rows = guidance["guidance_rows"](students, {"glue": 0.8})
    assert rows[2:] == [
        "| 1/2 | all | 192-8x24-704 | 1.00 M | 16.7 | 16.7 | 1.7 | 0.2 | 0.200 | 90.0% | – |",
        "| 1/4 | all | 192-8x24-704 | 1.00 M | 16.7 | 16.7 | 1.7 | 0.2 | 0.600 | 60.0% | 75.0% |",
        "| 1/4 | 5 | 192-8x24-704 | 1.00 M | 16.7 | 16.7 | 1.7 | 0.2 | 0.550 | 70.0% | – |",
        "| 1/4 | all | 192-6x24-704 | 4.00 M | 66.7 | 66.7 | 6.7 | 0.7 | 0.450 | 66.0% | – |",
    ]
    rows = guidance["guidance_rows"](students[2:4], {}, planned={"192-8x24-704"})
    assert rows[2:] == ["| 1/4 | all | 192-8x24-704 | 4.00 M | 66.7 | 66.7 | 6.7 | 0.7 | 0.500 | 64.0% |"]
    (rule,) = guidance["rule_of_thumb"](students)
    assert rule == "- 1/4, 192-8x24-704: 1 → 4 M tokens +4.0 points of accuracy kept; not run with more tokens."
    wider = [record("homodistil", 0.4, heads=9, student="nine", num_steps=steps, accuracy=0.4) for steps in (10, 40)]
    (rule,) = guidance["rule_of_thumb"]([*students, *wider])
    assert rule.startswith("- 1/4, 192-9x24-704: 1 → 4 M tokens +0.0 points")  # as many budgets, nearer to the teacher
    assert guidance["guidance_rows"]([], {}) == []


@pytest.fixture
def page(monkeypatch, tmp_path) -> Any:
    """Writes the page into a folder of the test and returns its text; takes words of the command line."""
    script = runpy.run_path(str(BENCHMARKS / "results" / "page.py"))
    names = script["main"].__globals__
    monkeypatch.setitem(names, "FOLDER", tmp_path / "results")
    monkeypatch.setitem(names, "PAGE", tmp_path / "results.md")
    monkeypatch.setitem(names, "ADVICE", tmp_path / "advice.json")
    monkeypatch.setitem(names, "README", tmp_path / "README.md")
    marks = script["write_readme"].__globals__
    (tmp_path / "README.md").write_text(f"# Ours\n\n{marks['BEGIN']}\nold\n{marks['END']}\n\nThe rest.\n")
    monkeypatch.setitem(names, "SWEEPS", BENCHMARKS.parent / "examples" / "sweeps")

    def write(*words: Any) -> str:
        monkeypatch.setattr(sys, "argv", ["write_results.py", *map(str, words)])
        script["main"]()
        return (tmp_path / "results.md").read_text(encoding="utf-8")

    return write


def test_the_page_says_what_was_not_run(page):
    text = page()
    assert (
        text.count("not run: none of its") == len(list((BENCHMARKS.parent / "examples" / "sweeps").glob("*.json"))) - 1
    )
    assert "Not run: they need about 100 hours of an A100 a student" in text


def test_the_page_is_written_from_the_records_that_there_are(page, tmp_path):
    kls = {"homodistil": 0.5, "no_kl": 0.7, "platon": 0.51}
    ablations = [record(arm, kl, method="homodistil") for arm, kl in kls.items()]
    ablations[1]["machine"] = MACHINE | {"processor": "another"}
    halves = [record("homodistil", 0.2, macs=500, accuracy=0.45)]
    five = [
        record("five_layers", 0.4 + 0.01 * seed, seed=seed, method="shallow") | {"method_settings": {"num_layers": 5}}
        for seed in range(3)
    ]
    wide = record("wide_layers", 0.45, method="shallow") | {"method_settings": {"num_layers": 5}}  # farther: not told
    quarters = [*METHODS, *five, wide]
    for name, records in (("methods_quarter", quarters), ("ablations", ablations), ("methods_half", halves)):
        for one in records:
            write_record(tmp_path / "runs" / name / "results" / f"{one['cell']}.json", one)
    text = page("--collect", tmp_path / "runs")
    lines = text.splitlines()
    # Five layers' differences are -.10, -.11, -.12: another variance of .0001, pooled .0002.
    six = "(6 degrees of freedom)"
    assert f"Measured: *s* = {math.sqrt(0.0002):.4f} nats of KL {six}, 0.0000 of accuracy {six}." in lines
    level = "| 0.000 ± 0.000 (3) | within noise | – | – |"
    assert f"| `one_shot` | 192-8x24-704 | 0.100 ± 0.020 (3) | `homodistil` is nearer {level}" in lines
    assert f"| `pruned_first` | 192-8x24-704 | 0.010 ± 0.010 (3) | within noise {level}" in lines
    at_each = "Along training, by the noise of each evaluation at 1/4: `homodistil` is nearer than"
    assert f"{at_each} `one_shot` at 2 of 2 evaluations, farther at 0, level at 0." in lines
    assert f"{at_each} `pruned_first` at 0 of 2 evaluations, farther at 0, level at 2." in lines
    assert "| the KL term helps | the paper | `no_kl` − `homodistil` | +0.200 | **reproduced** |" in lines
    assert "| the masked-LM term helps | the paper | `no_mlm` − `mlm_1` | – | not run: `no_mlm`, `mlm_1` |" in lines
    assert "| 1/2 | all | 192-8x24-704 | 1.00 M |" in text
    machines = ("a processor, 1 thread(s) of 2 cores; torch 2.0", "another, 1 thread(s) of 2 cores; torch 2.0")
    assert f"Machine: {machines[0]} and {machines[1]}. 3 cells took" in text
    assert "![methods-parameters](results/methods-parameters.png)" in lines
    for image in (
        "methods_quarter-discrepancy",
        "methods_quarter-pruned",
        "ablations-discrepancy",
        "methods-parameters",
    ):
        assert (tmp_path / "results" / f"{image}.png").stat().st_size > 1000
    assert page() == text
    teacher, (point,) = read_advice(tmp_path / "advice.json")
    assert "6 layers × 384" in teacher
    assert (point.encoder_macs, point.num_tokens, point.num_seeds) == (0.25, 1_000_000, 3)
    assert (point.kl, point.one_shot_kl, point.accuracy_kept, point.verdict) == (0.52, 0.62, 0.6, "homodistil")
    assert point.fewer_layers == {"5": -0.11}


def test_advice_lays_methods_beside_each_other_shape_by_shape_and_takes_the_better_shape(page, tmp_path):
    for arm, student, kl in [
        ("homodistil", "144-6x24-400", 0.5),
        ("one_shot", "144-6x24-400", 0.6),
        ("homodistil", "160-8x20-288", 0.4),
        ("one_shot", "160-8x20-288", 0.45),
        ("homodistil", "128-4x32-512", 0.3),  # without a run of one-shot pruning beside it
    ]:
        one = record(arm, kl, method=arm)
        one["settings"] = one["settings"] | {"student": student}
        one["cell"] = f"{arm},student={student},seed=0"
        add_record(tmp_path / "results" / "shapes", one)
    page()
    _, (point,) = read_advice(tmp_path / "advice.json")
    assert (point.glue_kept, point.one_shot_glue_kept) == (None, None)
    assert (point.shape, point.kl, point.one_shot_kl) == ("160-8x20-288", 0.4, 0.45)


def test_advice_holds_what_is_kept_on_tasks(page, tmp_path):
    def graded(one: dict[str, Any], mean: float) -> dict[str, Any]:
        return one | {"evaluate": {"glue": {"settings": {}, "results": {"mean": mean, "tasks": {}}}}}

    teacher = record_head(Cell("teacher", {}, "teacher", {})) | {"status": "done"}
    runs = [graded(record("homodistil", 0.5), 0.6), graded(record("one_shot", 0.6), 0.5), graded(teacher, 0.8)]
    for one in runs:
        add_record(tmp_path / "results" / "methods_quarter", one)
    page()
    _, (point,) = read_advice(tmp_path / "advice.json")
    assert (point.glue_kept, point.one_shot_glue_kept) == (0.75, 0.625)


def test_the_readme_gets_its_table(page, tmp_path):
    records = [*METHODS, record("distilbert", 0.3, macs=500, accuracy=0.45)]
    for one, name in [(one, "methods_quarter") for one in records[:-1]] + [(records[-1], "methods_half")]:
        add_record(tmp_path / "results" / name, one)
    teacher = record_head(Cell("teacher", {}, "teacher", {})) | {"status": "done"}
    glue = {"glue": {"settings": {}, "results": {"mean": 0.8}}}
    add_record(tmp_path / "results" / "methods_quarter", teacher | {"evaluate": glue})
    graded = METHODS[0] | {"evaluate": {"glue": {"settings": {}, "results": {"mean": 0.6}}}}
    add_record(tmp_path / "results" / "methods_quarter", graded)
    absent = record_head(Cell("distilbert", {"seed": 0}, "distilbert", {})) | {"status": "impossible", "reason": "no"}
    add_record(tmp_path / "results" / "methods_quarter", absent)
    floor = dict.fromkeys(("cola", "sst2", "mrpc", "rte", "stsb"), 0.4)
    (tmp_path / "results" / "constant_predictions.json").write_text(json.dumps(floor))
    page()
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    words = " ".join(lines)
    assert "the most frequent label keeps 50% of the teacher's mean" in words
    assert "DistilBERT's recipe is missing at a quarter" in words
    assert "were 0.0006 and 0.999 instead of the defaults (0.0006, 0.999)" in words  # these runs have the defaults
    assert lines[0] == "# Ours"
    assert lines[-1] == "The rest."
    assert "old" not in lines
    assert lines[lines.index("| --- | --- | --- | --- | --- | --- |") + 1 :][:5] == [
        "| 1/2 | DistilBERT's recipe | 4.0 M | 0.300 | 90.0% | – |",
        "| 1/4 | **HomoDistil** | 4.0 M | 0.520 ± 0.020 (3) | 60.0% ± 0.0% (3) | 75.0% |",
        "| 1/4 | pruned by magnitude first, then distilled | 4.0 M | 0.530 ± 0.026 (3) | 60.0% ± 0.0% (3) | – |",
        "| 1/4 | pruned at once, then distilled | 4.0 M | 0.620 ± 0.035 (3) | 60.0% ± 0.0% (3) | – |",
        "| 1/4 | trained from scratch | 4.0 M | 3.000 ± 1.000 (3) | 60.0% ± 0.0% (3) | – |",
    ]
    beside = "KL at a quarter less that of HomoDistil with the same seed, in nats: pruned at once +0.100 ± 0.020 (3)."
    assert beside in lines


def test_without_records_the_readme_claims_nothing(page, tmp_path):
    page()
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line] == ["# Ours", lines[2], lines[4], "The rest."]
    assert (lines[2][:4], lines[4][:4]) == ("<!--", "<!--")


def test_a_readme_without_marks_is_refused(page, tmp_path):
    (tmp_path / "README.md").write_text("# Ours\n")
    with pytest.raises(ValueError, match="README.md lacks '<!-- written by"):
        page()


def test_runs_that_were_taken_over_are_counted_once(page, tmp_path):
    for one in METHODS[:3]:
        add_record(tmp_path / "results" / "methods_quarter", one)
    twin = METHODS[0] | {"taken_from": "methods_quarter/homodistil,seed=0", "cell": f"homodistil,{SIZE},seed=0"}
    add_record(tmp_path / "results" / "sizes", twin)
    text = page()
    assert text.count("\n| homodistil |") == 2  # in the tables of both sweeps
    assert "| 1/4 | all | 192-8x24-704 | 1.00 M | 16.7 | 16.7 | 1.7 | 0.2 | 0.520 ± 0.020 (3) | 60.0% |" in text


def test_an_order_along_training_without_a_measured_noise_is_undecided(page, tmp_path):
    for one in (METHODS[0], METHODS[3]):
        add_record(tmp_path / "results" / "methods_quarter", one)
    text = page()
    assert (
        "Along training, `homodistil` beside `one_shot`: undecided, no evaluation in common has a measured noise."
        in text
    )
    assert "beside `pruned_first`" not in text


def test_the_papers_order_is_judged_in_the_papers_window(page, tmp_path):
    late = [record("end_0.5", kl, seed=seed, method="homodistil") for seed, kl in enumerate((0.51, 0.53, 0.55))]
    for one in [*METHODS, *late]:
        add_record(tmp_path / "results" / "methods_quarter", one)
    lines = page().splitlines()
    paper = "The paper, where pruning ends at 0.5 T to 0.9 T: nearer at every one, once pruning has begun"
    along = lines.index(
        "Along training, by the noise of each evaluation at 1/4: `end_0.5` is nearer than `one_shot` at 2 of 2 "
        "evaluations, farther at 0, level at 0."
    )
    assert lines[along + 1] == f"{paper}: **reproduced**."
    assert sum(line.startswith("The paper, where") for line in lines) == 2  # beside one-shot and pruned-first


def test_other_shapes_stand_beside_their_own_gradual_student(page, tmp_path):
    narrow = [record("eight_heads", 0.7, heads=4, method="homodistil"), record("one_shot_eight_heads", 0.8, heads=4)]
    for one in [*METHODS, *narrow]:
        add_record(tmp_path / "results" / "methods_quarter", one)
    lines = page().splitlines()
    single = "| 0.000 | within noise | – | – |"
    assert f"| `one_shot_eight_heads` | 192-4x24-704 | 0.300 | `homodistil` is nearer {single}" in lines
    assert f"| `one_shot_eight_heads` − `eight_heads` | 0.100 | `eight_heads` is nearer {single}" in lines
    assert not any("`one_shot` − " in line for line in lines)


def test_three_seeds_decide_by_their_own_spread_fewer_borrow_one(verdicts):
    """Of .01, .02, .03 Student's t asks .0248 of the mean; the borrowed noise .043 of one difference, .030 of two."""
    noise = verdicts["Noise"](std=0.01, freedom=2)
    assert [noise.sign([0.01, 0.02, 0.03]), noise.sign([0.02, 0.03, 0.04])] == [0, 1]
    assert [noise.borrowed_sign([0.02, 0.03, 0.04]), noise.borrowed_sign([0.01, 0.02, 0.03])] == [1, 0]
    assert [noise.sign([-0.044]), noise.sign([-0.042]), noise.sign([0.03, 0.032]), noise.sign([0.03, 0.028])] == [
        -1,
        0,
        1,
        0,
    ]


def test_accuracy_and_tasks_are_decided_as_kl_is(page, tmp_path):
    """Of accuracy one-shot's gains give the noise: .001, so that .1 counts in one seed and .002 does not.

    Of tasks no arm has three seeds: of gains of .02 and .03 the mean must exceed 12.7 · .005.
    """

    def graded(one: dict[str, Any], mean: float) -> dict[str, Any]:
        return one | {"evaluate": {"glue": {"settings": {}, "results": {"mean": mean, "tasks": {}}}}}

    own = [graded(record("homodistil", 0.5, seed=seed), 0.6) for seed in range(3)]
    other = [record("one_shot", 0.6, seed=seed, accuracy=0.2 + 0.001 * seed) for seed in range(3)]
    other[:2] = [graded(one, mean) for one, mean in zip(other, (0.62, 0.63), strict=False)]
    single = graded(record("scratch", 3.0, accuracy=0.4), 0.1)
    level = record("minilm", 3.0, accuracy=0.302)
    for one in [*own, *other, single, level]:
        add_record(tmp_path / "results" / "methods_quarter", one)
    text = page()
    gains = "| -0.099 ± 0.001 (3) | `homodistil` is better | 0.025 ± 0.007 (2) | within noise |"
    assert f"| `one_shot` | 192-8x24-704 | 0.100 ± 0.000 (3) | `homodistil` is nearer {gains}" in text
    assert "| 0.100 | `scratch` is better | -0.500 | one seed |" in text
    assert "| 0.002 | within noise | – | – |" in text


def test_wide_steps_count_as_what_they_cost(monkeypatch):
    """A layer of 4 · 192² + 2 · 192 · 704 + 2 · 128 · 192 MACs, twice as wide in half of the steps."""
    computation = runpy.run_path(str(BENCHMARKS / "results" / "computation.py"))
    narrow, wide = (dict.fromkeys(("hidden", "attention", "ffn"), fraction) for fraction in (0.5, 1.0))
    slow = record("homodistil", 0.5) | {"kept_fractions": [narrow | wide | {"step": 5}, narrow | {"step": 10}]}
    once = record("one_shot", 0.5) | {"kept_fractions": [narrow | {"step": 5}, narrow | {"step": 10}]}
    layer = 4 * 192 * 192 + 2 * 192 * 704 + 2 * 128 * 192
    doubled = 4 * 384 * 384 + 2 * 384 * 1408 + 2 * 128 * 384
    macs = 5 * (1000 + 3 * 250 * doubled / layer) + 5 * (1000 + 3 * 250)
    assert computation["run_macs"](slow) == pytest.approx(macs)
    assert computation["run_macs"](once) == pytest.approx(10 * (1000 + 3 * 250) + 16 * 4 * 1000)
    line, _ = computation["computation_line"]({"homodistil": [slow], "one_shot": [once]}, "homodistil")
    assert line.endswith(f"as a share of `homodistil`'s: `one_shot` {81500 / macs:.2f}.")
    assert computation["computation_line"]({"homodistil": [slow]}, "homodistil") == []
    assert computation["computation_line"]({"one_shot": [once]}, "homodistil") == []


@pytest.mark.parametrize(
    ("arm", "size", "macs", "student"),
    [
        ("one_shot", "1/4", 250, "192-12x16-704"),
        ("eighth_on_five_layers", "1/8", 125, "128-8x16-512"),
    ],
)
def test_other_arms_stand_beside_every_size(page, tmp_path, arm, size, macs, student):
    for name, kl in (("homodistil", 1.0), (arm, 1.25)):
        cell = f"{name},student={student},max_steps=1000,seed=0"
        one = record(name, kl, macs=macs, student=student) | {"cell": cell}
        add_record(tmp_path / "results" / "sizes", one)
    assert f"| {size} | {student} | 1.00 M | {arm} | 0.250 | undecided |" in page()


def test_longer_runs_of_two_arms_stay_on_the_page(page, tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("wikibooks_half", "wikibooks_quarter"):
        file = BENCHMARKS.parent / "docs" / "results" / f"{name}.json"
        (tmp_path / "results" / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    text = page()
    results = json.loads(file.read_text(encoding="utf-8"))
    for arm in ("homodistil", "one_shot"):
        assert f"{results['arms'][arm]['evaluation']['eval_kl']:.3f} |" in text
    assert "### `192-12x16-704`, 0.25 of the teacher's encoder MACs, 4.1 million tokens" in text


def test_variants_stand_beside_the_method_as_it_is(page, tmp_path):
    kls = {"homodistil": 0.30, "one_shot": 0.35, "homodistil_hold_0.7": 0.28, "one_shot_hold_0.7": 0.45}
    held = [record(arm, kl, method=arm.split("_hold")[0]) for arm, kl in kls.items()]
    for one, name in [(one, "holds") for one in held] + [(one, "methods_quarter") for one in METHODS]:
        add_record(tmp_path / "results" / name, one)
    lines = page().splitlines()
    assert "| `homodistil_hold_0.7` − `homodistil` | -0.020 | within noise |" in lines
    assert "| `one_shot_hold_0.7` − `one_shot` | 0.100 | `one_shot` is nearer |" in lines


def test_guidance_takes_a_run_of_several_sweeps_from_the_one_that_evaluated_it(page, tmp_path):
    """The planned shape's student stands in `computation` without its fine-tuning."""
    teacher = record_head(Cell("teacher", {}, "teacher", {})) | {"status": "done"}
    graded = [
        one | {"evaluate": {"glue": {"settings": {}, "results": {"mean": mean, "tasks": {}}}}}
        for one, mean in ((record("homodistil", 0.5), 0.6), (teacher, 0.8))
    ]
    copied = record("homodistil", 0.5) | {"taken_from": "methods_quarter/homodistil,seed=0"}
    for name, one in (("methods_quarter", graded[0]), ("methods_quarter", graded[1]), ("computation", copied)):
        add_record(tmp_path / "results" / name, one)
    (row,) = (line for line in page().splitlines() if line.startswith("| 1/4 | all | 192-8x24-704 | 1.00 M |"))
    assert row.endswith("| 0.500 | 60.0% | 75.0% |")
