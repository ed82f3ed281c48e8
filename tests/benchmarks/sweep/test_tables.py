"""A sweep's figures from records made by hand: seeds taken together, searches, tables, curves, what is missing."""

import pytest
from sweep_records import METHODS, record, sweep_of

from benchmarks.sweep.cells import TEACHER, Cell, Choice
from benchmarks.sweep.folder import record_head
from benchmarks.sweep.tables import chosen, over_seeds, searches, sweep_table
from homodistil_hf.evaluation.records import Spread


def test_seeds_are_taken_together():
    groups = over_seeds(METHODS)
    assert [len(group) for group in groups] == [3, 3, 3, 3]
    spread = Spread.of(one["evaluation"]["kl"] for one in groups[0])
    assert (spread.mean, spread.std, spread.n) == (pytest.approx(0.52), pytest.approx(0.02), 3)
    assert str(spread) == "0.520 ± 0.020 (3)"
    other = [record("homodistil", 0.4, seed=0, eval_steps=7)]
    assert len(over_seeds([*METHODS, *other])) == 5


RATES = [
    record(variant, kl, seed=seed, axes={"learning_rate": rate}, num_steps=steps)
    for variant, rate, steps, kls in (
        ("a", 1e-3, 10, (0.9, 0.7)),
        ("a", 1e-4, 10, (0.75, 0.75)),
        ("a", 1e-3, 20, (0.5, 0.6)),
        ("a", 1e-4, 20, (0.4, 0.6)),
        ("b", 1e-3, 10, (0.3, 0.3)),
    )
    for seed, kl in enumerate(kls)
]
CHOICE = Choice("learning_rate", "kl", ("variant", "max_steps"))


def best_values(records, choice):
    return {group: search.best for group, search in searches(records, choice).items()}


def test_the_best_rate_is_searched_in_each_group():
    assert best_values(RATES, CHOICE) == {("a", 10): 1e-4, ("a", 20): 1e-4, ("b", 10): 1e-3}
    assert [one["evaluation"]["kl"] for one in chosen(RATES, CHOICE)] == [0.75, 0.75, 0.4, 0.6, 0.3, 0.3]
    assert chosen(RATES, None) == RATES
    rising = [record("a", 1.0, accuracy=0.1 + rate, axes={"learning_rate": rate}) for rate in (0.1, 0.2)]
    assert best_values(rising, Choice("learning_rate", "mlm_accuracy", ("variant",))) == {("a",): 0.2}


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
