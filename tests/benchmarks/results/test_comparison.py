"""Comparisons, questions and claims on records made by hand: who stands beside whom, what is said, what is missing."""

from pathlib import Path
from typing import Any

import pytest
from page_results import results_of
from sweep_records import METHODS, graded, model, record, teacher, write_results

from benchmarks.results.comparison import (
    Claim,
    Comparison,
    Question,
    its_method,
    its_own_shape,
    noises_of,
    the_first,
)
from benchmarks.results.contents import BASELINES, CLAIMS, QUESTIONS, SECTIONS
from benchmarks.results.students import Results
from benchmarks.results.verdicts import METRICS, Noise

NOISES = {metric: Noise(0.01, 4) for metric in METRICS}  # of one seed 0.0278 counts
NOWHERE = Path("nowhere")


def rows(comparison: Comparison, *records: dict[str, Any]) -> list[str]:
    return comparison.lines(results_of(NOWHERE, sizes=list(records)).of("sizes"), NOISES)[2:-1]


def test_every_arm_stands_beside_the_reference():
    found = rows(Comparison(("kl", "mlm_accuracy", "glue"), shown=("shape",)), *METHODS[:4])
    assert found == ["| `one_shot` − `homodistil` | 192-8x24-704 | +0.100, **farther** | +0.000, within noise | – |"]
    assert rows(Comparison(), *METHODS[3:]) == []  # there is no reference


def test_only_students_with_the_same_size_and_budget_are_compared():
    kls = {(250, 10): (0.5, 0.6), (250, 20): (0.5, 0.51), (125, 10): (0.9, 0.8)}
    every = [
        record(arm, kl[place], macs=macs, num_steps=steps)
        for (macs, steps), kl in kls.items()
        for place, arm in enumerate(("homodistil", "one_shot"))
    ]
    alone = record("one_shot", 0.1, macs=500)
    assert rows(Comparison(within=("size", "num_tokens")), *every, alone) == [
        "| `one_shot` − `homodistil` | 1/4 | 1.00 M | +0.100, **farther** |",
        "| `one_shot` − `homodistil` | 1/4 | 2.00 M | +0.010, within noise |",
        "| `one_shot` − `homodistil` | 1/8 | 1.00 M | -0.100, **nearer** |",
    ]


def test_arms_of_other_shapes_and_variants_stand_beside_their_own():
    arms = {
        "homodistil": 0.5,
        "one_shot": 0.6,
        "eight_heads": 0.7,
        "one_shot_eight_heads": 0.8,
        "one_shot_hold_0.7": 0.9,
    }
    records = [record(arm, kl) for arm, kl in arms.items()]
    assert rows(Comparison(beside=its_own_shape), *records) == [
        "| `one_shot_eight_heads` − `eight_heads` | +0.100, **farther** |"
    ]
    assert rows(Comparison(beside=its_method), *records) == [
        "| `one_shot_hold_0.7` − `one_shot` | +0.300, **farther** |"
    ]
    shapes = [record("homodistil", kl, student=name) for name, kl in (("a", 0.5), ("b", 0.4), ("c", 0.51))]
    assert rows(Comparison(beside=the_first, of="student", within=("size", "arm")), *shapes) == [
        "| `b` − `a` | 1/4 | homodistil | -0.100, **nearer** |",
        "| `c` − `a` | 1/4 | homodistil | +0.010, within noise |",
    ]


def answer(question: Question, folder: Path = NOWHERE, **sweeps: Any) -> list[str] | None:
    row = question.row(results_of(folder, **sweeps), NOISES)
    return row and row[1:]


def test_a_question_counts_where_the_method_is_ahead_and_names_who_is_missing():
    question = Question(
        "?", ("methods_quarter",), Comparison(only=("one_shot", "pruned_first", "distilbert", "tinybert"))
    )
    absent = record("distilbert", 0.1) | {"status": "impossible", "reason": "no"}
    quarter = [METHODS[0], METHODS[3], METHODS[6], METHODS[9], absent]
    assert answer(question, methods_quarter=quarter) == [
        "`one_shot` +0.100, **farther**; `pruned_first` +0.010, within noise",
        "**not shown for all**: ahead in 1 of 2, level in 1; `distilbert`: can't exist at this size; "
        "`tinybert`: not run",
    ]
    assert answer(question, methods_quarter=METHODS[3:6]) is None
    nearer = record("tinybert", 0.1)
    assert answer(question, methods_quarter=[METHODS[0], nearer])[1].startswith("**no**: ahead in 0 of 1, behind in 1")


def test_questions_on_all_held_out_text_take_what_was_measured_there(tmp_path):
    """The sweeps' own blocks, where one-shot is nearer throughout, don't count."""
    kls = {"methods_half": (0.2, 0.21), "methods_eighth": (0.4, 0.5)}
    sweeps = {
        name: [record("homodistil", 0.9, macs=macs), record("one_shot", 0.1, macs=macs)]
        for name, macs in (("methods_half", 500), ("methods_eighth", 125))
    }
    for name, (own, other) in kls.items():
        write_results(tmp_path, name, [model("homodistil", 0, own), model("one_shot", 0, other)])
    (question,) = (one for one in QUESTIONS if one.label == "size")
    assert answer(question, tmp_path, **sweeps) == [
        "1/2 +0.010, within noise; 1/8 +0.100, **farther**, on all held-out text",
        "**not shown for all**: ahead in 1 of 2, level in 1",
    ]


def test_budgets_rise_and_have_a_verdict_each(tmp_path):
    gaps = {40: 0.05, 5: -0.05, 10: 0.02}
    budgets = [
        record(arm, 0.5, num_steps=steps, axes={"budget": {"max_steps": steps}})
        for steps in gaps
        for arm in ("homodistil", "one_shot")
    ]
    models = [model("homodistil", 0, 0.5, f"max_steps={steps}") for steps in gaps]
    models += [model("one_shot", 0, 0.5 + gap, f"max_steps={steps}") for steps, gap in gaps.items()]
    write_results(tmp_path, "tokens_planned", models)
    (question,) = (one for one in QUESTIONS if one.label == "num_tokens")
    assert answer(question, tmp_path, tokens_planned=budgets) == [
        "0.50 M -0.050, **nearer**; 1.00 M +0.020, within noise; 4.00 M +0.050, **farther**, on all held-out text",
        "**no**: ahead in 1 of 3, level in 1, behind in 1",
    ]


def test_noise_on_all_held_out_text_is_that_of_the_sweep_with_the_same_runs(tmp_path):
    """Gaps of 0.00, 0.01 and 0.02 nats: s = 0.01, 2 degrees of freedom."""
    models = [model("homodistil", seed, 0.5) for seed in range(3)]
    models += [model("one_shot", seed, 0.50 + 0.01 * seed) for seed in range(3)]
    models += [model("scratch", seed, 3.0 + seed) for seed in range(3)]
    write_results(tmp_path, "computation", models)
    runs = [*METHODS[:6], *METHODS[9:]]
    noises = noises_of(results_of(tmp_path, computation=runs, methods_quarter=METHODS))
    assert (noises["all_kl"].std, noises["all_kl"].freedom) == (pytest.approx(0.01), 2)
    assert (noises["kl"].std, noises["kl"].freedom) == (pytest.approx(0.00025**0.5), 4)


def test_accuracy_and_tasks_have_a_noise_of_their_own():
    own = [graded(record("homodistil", 0.5, seed=seed), 0.6) for seed in range(3)]
    other = [graded(record("one_shot", 0.6, seed=s, accuracy=0.2 + 0.001 * s), 0.6 + 0.02 * s) for s in range(3)]
    noises = noises_of(results_of(NOWHERE, methods_quarter=[teacher(0.8), *own, *other]))
    assert (noises["mlm_accuracy"].std, noises["glue"].std) == (pytest.approx(0.001), pytest.approx(0.02))


CLAIM = Claim("no_kl", "homodistil", "the KL term helps")


def claimed(*records: dict[str, Any], noise: Noise = NOISES["kl"], claim: Claim = CLAIM) -> list[str]:
    return claim.row(results_of(NOWHERE, ablations=list(records)).of("ablations"), noise)[3:]


@pytest.mark.parametrize(
    ("worse", "expected"), [(0.55, "**reproduced**"), (0.52, "within noise"), (0.45, "**not reproduced**")]
)
def test_a_claim_is_decided_by_the_rule(worse, expected):
    runs = [record("no_kl", worse), record("homodistil", 0.5)]
    assert claimed(*runs) == [f"{worse - 0.5:+.3f}", expected]
    assert claimed(*runs, noise=Noise()) == [f"{worse - 0.5:+.3f}", "undecided: the noise was not measured"]


def test_what_decides_nothing_is_told():
    assert claimed(record("homodistil", 0.5)) == ["–", "not run: `no_kl`"]
    assert claimed(record("homodistil", 0.5), record("no_kl", 0.6, seed=1)) == ["–", "not run: no seed in common"]
    larger = record("no_kl", 0.9, macs=260), record("homodistil", 0.5)
    assert claimed(*larger) == ["+0.400", "undecided: 0.260 against 0.250 of the encoder MACs"]
    same = record("no_kl", 0.5), record("homodistil", 0.5)
    assert claimed(*same) == ["+0.000", "no difference at all: the setting never acted"]


def test_layers_of_different_widths_count_without_their_padding():
    uneven = record("global_widths", 0.9, macs=411)
    uneven["models"]["compact"] = uneven["models"]["student"] | {"encoder_macs": 250, "num_parameters": 3_000_000}
    claim = Claim("homodistil", "global_widths", "layers should compete for widths")
    assert claimed(uneven, record("homodistil", 0.5), claim=claim)[1] == "**not reproduced**"


def test_what_is_compared_is_there():
    """Every sweep with a section has a file, whose arms are those that claims and questions name."""
    sweeps = Results.read(NOWHERE, Path(__file__).parents[3] / "examples" / "sweeps").sweeps
    assert sweeps.keys() == SECTIONS.keys()
    arms = {name: {cell.arm for cell in sweep.cells} for name, sweep in sweeps.items()}
    assert {arm for claim in CLAIMS for arm in (claim.worse, claim.better)} <= arms["ablations"]
    assert set(BASELINES) <= arms["methods_quarter"]
