"""What stands first on the page of results, from records made by hand: numbers, verdicts, and what is left out."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from sweep_records import METHODS, model, record, write_results

from homodistil_hf.experiments.sweep.cells import TEACHER, Cell
from homodistil_hf.experiments.sweep.folder import read_records, record_head, write_record

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
RESULTS = BENCHMARKS.parent / "docs" / "results"
NEAR = METHODS[
    :9
]  # HomoDistil, one_shot .1, .08, .12 and pruned_first .01, .0, .02 farther; of one seed .0439 is noise


@pytest.fixture
def answers(monkeypatch, tmp_path) -> Any:
    """Gives the rows as question → (measured, answer)."""
    section = runpy.run_path(str(BENCHMARKS / "results" / "answers.py"))["answers_section"]

    def rows(folder: Path = tmp_path, **sweeps: Any) -> dict[str, tuple[str, str]]:
        lines = "\n".join(section(sweeps, folder)).splitlines()
        cells = [line.strip("|").split("|") for line in lines if line.startswith("| ")][2:]
        return {question.strip(): (measured.strip(), answer.strip()) for question, measured, answer in cells}

    return rows


def graded(one: dict[str, Any], mean: float) -> dict[str, Any]:
    return one | {"evaluate": {"glue": {"settings": {}, "results": {"mean": mean}}}}


def teacher(mean: float) -> dict[str, Any]:
    return graded(record_head(Cell(TEACHER, {}, TEACHER, {TEACHER: "t"})) | {"status": "done"}, mean)


def the_row(rows: dict[str, tuple[str, str]], words: str) -> tuple[str, str]:
    (found,) = (row for question, row in rows.items() if words in question)
    return found


@pytest.mark.parametrize(("half", "share", "words"), [(0.98, "98.0%", "yes"), (0.96, "96.0%", "no")])
def test_what_is_kept_is_a_share_of_the_sweeps_own_teacher(answers, half, share, words):
    halves = [teacher(0.5), graded(record("homodistil", 0.2), half / 2), graded(record("one_shot", 0.2), 0.7)]
    quarters = [teacher(0.8), *(graded(one, 0.736 + 0.008 * place) for place, one in enumerate(METHODS[:3]))]
    quarters += [graded(METHODS[3], 0.1), graded(record("end_0.5", 0.5, method="homodistil"), 0.1)]
    rows = answers(methods_half=halves, methods_quarter=quarters)
    assert the_row(rows, "Does a half keep 97 %") == (share, f"**{words}**, one seed")
    assert the_row(rows, "Does a quarter keep 92 %") == ("93.0% ± 1.0% (3)", "**yes**, by the mean of 3 seeds")
    lower = [teacher(0.8), *(graded(one, 0.72) for one in METHODS[:2]), METHODS[2]]
    answer = the_row(answers(methods_quarter=lower), "Does a quarter")
    assert answer == ("90.0% ± 0.0% (2)", "**no**, by the mean of 2 seeds")


def test_without_a_teachers_score_nothing_is_said_of_shares(answers):
    rows = answers(methods_quarter=[graded(one, 0.7) for one in METHODS[:3]])
    assert list(rows) == ["What did the trainings take?"]


def test_baselines_are_those_arms_that_carry_their_methods_name(answers):
    other = [
        record("one_shot_eight_heads", 0.9, method="one_shot"),
        record("one_shot_same_compute", 0.1, method="one_shot"),
        record("end_0.5", 0.1, method="homodistil"),
        record("five_layers", 0.1, method="shallow"),
    ]
    measured, answer = the_row(answers(methods_quarter=[*NEAR, *other]), "than by any baseline")
    assert measured == "`one_shot` +0.100 ± 0.020 (3), `pruned_first` +0.010 ± 0.010 (3)"
    assert answer == "**not shown for all**; `one_shot`: HomoDistil is nearer; `pruned_first`: within noise"


def test_a_quarter_is_nearest_only_if_it_is_nearer_than_every_baseline(answers):
    seeds = METHODS[:3]
    nearer = [record("distilbert", one["evaluation"]["kl"] - 0.2, seed=seed) for seed, one in enumerate(seeds)]
    _, answer = the_row(answers(methods_quarter=[*NEAR, *nearer]), "than by any baseline")
    verdicts = "`one_shot`: HomoDistil is nearer; `pruned_first`: within noise; `distilbert`: the baseline is nearer"
    assert answer == f"**no**; {verdicts}"
    _, answer = the_row(answers(methods_quarter=NEAR[:6]), "than by any baseline")
    assert answer == "**yes**; `one_shot`: HomoDistil is nearer"
    absent = record_head(Cell("distilbert", {}, "distilbert", {})) | {"status": "impossible", "reason": "no"}
    _, answer = the_row(answers(methods_quarter=[METHODS[0], METHODS[3], absent]), "than by any baseline")
    assert answer == "**not shown for all**; `one_shot`: undecided; `distilbert`: can't exist at this size"


def test_accuracy_and_tasks_have_verdicts_of_their_own(answers):
    own = [graded(record("homodistil", 0.5, seed=seed), 0.60 + 0.01 * seed) for seed in range(3)]
    worse = [graded(record("one_shot", 0.6, seed=s, accuracy=0.2 + 0.001 * s), 0.71 + 0.01 * s) for s in range(3)]
    better = [record("scratch", 3.0, seed=s, accuracy=0.4 + 0.001 * s) for s in range(3)]
    single = graded(record("tinybert", 2.0, accuracy=0.1), 0.4)
    rows = answers(methods_quarter=[*own, *worse, *better, single])
    measured, answer = the_row(rows, "by masked-LM accuracy")
    assert measured == "`one_shot` -0.099 ± 0.001 (3), `scratch` +0.101 ± 0.001 (3), `tinybert` -0.200"
    assert answer == "**no**; `one_shot`, `tinybert`: HomoDistil is better; `scratch`: the baseline is better"
    measured, answer = the_row(rows, "by the mean of the GLUE tasks")
    assert measured == "`one_shot` +0.110 ± 0.000 (3), `tinybert` -0.200"
    verdicts = "`one_shot`: the baseline is better; `scratch`: not run; `tinybert`: HomoDistil is better"
    assert answer == f"**no**; {verdicts}"
    _, answer = the_row(answers(methods_quarter=[own[0], single]), "by the mean of the GLUE tasks")
    assert answer == "**not shown for all**; `tinybert`: one seed"


def same_compute(folder: Path, sweep: str, kls: tuple[float, ...], **metrics: float) -> None:
    """HomoDistil has 0.50, 0.51 and 0.52 nats, the same agreement and accuracy as others but for what is given."""
    arm = "one_shot_same_compute"
    models = [model("homodistil", seed, 0.5 + 0.01 * seed) for seed in range(3)]
    models += [model("one_shot", seed, 9.0) for seed in range(3)]
    models += [model(arm, seed, kl) | {"mlm_accuracy": 0.4 + 0.001 * seed} | metrics for seed, kl in enumerate(kls)]
    write_results(folder, sweep, models)


def test_equal_computation_is_judged_on_all_held_out_text_by_its_own_spread(answers, tmp_path):
    """Of KL's gaps .050, .051, .049; agreement's are .1 above, accuracy's .000, .001, .002, whose limit is .0025."""
    same_compute(tmp_path, "methods_quarter", (0.550, 0.561, 0.569), agreement=0.8)
    measured, answer = the_row(answers(), "same computation")
    gaps = "KL +0.050 ± 0.001 (3), agreement +0.100 ± 0.000 (3), accuracy +0.001 ± 0.001 (3)"
    assert measured == f"{gaps}, on all held-out text"
    assert answer == "KL: HomoDistil is better; agreement: one-shot is better; accuracy: within noise"
    same_compute(tmp_path, "computation", (0.450, 0.461, 0.469), agreement=0.7)
    measured, answer = the_row(answers(), "same computation")  # that sweep has more seeds
    assert measured.startswith("KL -0.050 ± 0.001 (3), agreement +0.000 ± 0.000 (3)")
    assert answer == "KL: one-shot is better; agreement, accuracy: within noise"
    write_results(tmp_path, "computation", [model("homodistil", 0, 0.5)])
    assert the_row(answers(), "same computation")[0].startswith("KL +0.050")


def near_quarters(folder: Path) -> None:
    """One-shot is 0.00, 0.01 and 0.02 nats farther: s = 0.01, 2 degrees of freedom, so that 0.043 is noise."""
    models = [model("homodistil", seed, 0.5) for seed in range(3)]
    write_results(folder, "computation", models + [model("one_shot", seed, 0.5 + 0.01 * seed) for seed in range(3)])


def test_other_sizes_borrow_the_noise_of_a_quarter(answers, tmp_path):
    for name, kls in (("methods_half", (0.20, 0.24, 0.9)), ("methods_eighth", (0.80, 0.75, 0.1))):
        arms = ("homodistil", "one_shot", "end_0.5")
        write_results(tmp_path, name, [model(arm, 0, kl) for arm, kl in zip(arms, kls, strict=True)])
    measured, answer = the_row(answers(), "And at a half, at an eighth?")
    assert measured == "1/2 +0.040, 1/8 -0.050, on all held-out text"
    assert answer == "1/2, 1/8: undecided; one seed each"
    near_quarters(tmp_path)
    _, answer = the_row(answers(), "And at a half, at an eighth?")
    assert answer == "1/2: within noise; 1/8: one-shot is nearer; one seed each"


def test_budgets_rise_and_have_a_verdict_each(answers, tmp_path):
    """The sweep's own blocks, where one-shot is farther throughout, don't count."""
    gaps = {40: 0.05, 5: -0.05, 10: 0.04, 20: 0.06}
    axes = {steps: {"budget": {"max_steps": steps}} for steps in (*gaps, 80)}
    budgets = [record("homodistil", 0.5, num_steps=steps, axes=axes[steps]) for steps in gaps]
    budgets += [record("one_shot", 0.9, num_steps=steps, axes=axes[steps]) for steps in axes]
    near_quarters(tmp_path)
    models = [model("homodistil", 0, 0.5, f"max_steps={steps}") for steps in gaps]
    models += [model("one_shot", 0, 0.5 + gap, f"max_steps={steps}") for steps, gap in gaps.items()]
    write_results(tmp_path, "tokens_planned", models)
    measured, answer = the_row(answers(tokens_planned=budgets), "With how many tokens")
    assert measured == "0.50 M -0.050, 1.00 M +0.040, 2.00 M +0.060, 4.00 M +0.050, on all held-out text"
    verdicts = "0.50 M: one-shot is nearer; 1.00 M: within noise; 2.00 M, 4.00 M: HomoDistil is nearer"
    assert answer == f"{verdicts}; one seed each"


def test_the_papers_order_is_that_of_its_own_window(answers):
    """HomoDistil itself is nearer than one-shot at both evaluations, the window that the paper has is not."""
    rows = answers(methods_quarter=NEAR)
    assert not any("the paper's order" in question for question in rows)
    late = [record("end_0.5", kl + 0.3, seed=seed, method="homodistil") for seed, kl in enumerate((0.6, 0.6, 0.66))]
    words = "`end_0.5` is nearer than `one_shot` at 0 of 2 evaluations, farther at 2, level at 0"
    row = the_row(answers(methods_quarter=[*NEAR, *late]), "the paper's order")
    assert row == (words, "**not reproduced**")
    early = [record("end_0.5", kl - 0.3, seed=seed, method="homodistil") for seed, kl in enumerate((0.6, 0.6, 0.66))]
    words = "`end_0.5` is nearer than `one_shot` at 2 of 2 evaluations, farther at 0, level at 0"
    assert the_row(answers(methods_quarter=[*NEAR, *early]), "the paper's order") == (words, "**reproduced**")


def test_hours_are_of_each_run_once(answers, tmp_path):
    """A run of n steps takes 100 n + 60 seconds: 7,200 of 68,400 are HomoDistil's and one-shot's at a quarter."""
    short, long = 35.4, 71.4  # 3,600 and 7,200 seconds
    own = [record("homodistil", 0.5, num_steps=short), record("one_shot_narrower", 0.5, num_steps=short)]
    others = [record("scratch", 3.0, num_steps=long), record("end_0.5", 0.5, method="homodistil", num_steps=long)]
    shapes = [
        record("homodistil", 0.5, num_steps=long, student="another"),
        own[0] | {"cell": "copied"},
        record("one_shot", 0.4, num_steps=long, student="third") | {"taken_from": "tokens/one_shot"},
    ]
    for name, one in (
        ("left_out", record("paced_rate", 0.5, num_steps=short)),
        ("repeated", own[0] | {"seconds": 36e3}),
    ):
        write_record(tmp_path / name / f"{one['cell']}.json", one)  # of one hour and of ten
    rows = answers(methods_quarter=[teacher(0.5), *own, *others], shapes=shapes)
    measured, answer = rows["What did the trainings take?"]
    assert measured == "19.0 hours, 7 trainings with their evaluations"
    assert answer.startswith("11% of these hours for slow beside one-shot pruning")
    assert answer.endswith("all fine-tunings come on top, the records don't hold their times")


def test_nothing_was_run_nothing_is_answered(answers):
    assert answers() == answers(methods_quarter=[teacher(0.5)]) == {}


def test_the_page_in_the_repository_begins_with_the_answers_to_the_records_beside_it(monkeypatch):
    script = runpy.run_path(str(BENCHMARKS / "results" / "page.py"))
    monkeypatch.setitem(script["main"].__globals__, "FOLDER", RESULTS)
    monkeypatch.setitem(script["main"].__globals__, "SWEEPS", BENCHMARKS.parent / "examples" / "sweeps")
    (section,) = script["answers_section"](script["records_of"](script["read_sweeps"]()), RESULTS)
    page = (RESULTS.parent / "results.md").read_text(encoding="utf-8")
    assert page.startswith(f"{script['INTRODUCTION']}\n{section}\n## ")
    rows = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 10
    assert max(len(cell) for row in rows for cell in row.split("|")) <= 300
    records = {record["cell"]: record for record in read_records(RESULTS / "methods_half.jsonl")}
    share, teachers = (records[cell]["evaluate"]["glue"] for cell in ("homodistil,seed=0", "teacher"))
    assert f"{share['results']['mean'] / teachers['results']['mean']:.1%}" in rows[0]
