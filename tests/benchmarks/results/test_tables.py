"""The page's tables that are no comparisons, by hand: budgets, tasks, computation, a family of sizes."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from page_results import results_of
from sweep_records import METHODS, graded, record, teacher

from benchmarks.results.budgets import budget_lines, own_students
from benchmarks.results.computation import computation_line, run_macs
from benchmarks.results.family import ALONE, AS_MANY, CHAIN, family_lines
from benchmarks.results.tasks import glue_lines

STUDENTS = [
    record("homodistil", 0.6, accuracy=0.30),
    record("homodistil", 0.7, accuracy=0.20, learning_rate=1.0),
    record("homodistil", 0.5, accuracy=0.32, num_steps=40),
    record("homodistil", 0.45, accuracy=0.33, num_steps=40, heads=6, student="six"),
    record("homodistil", 0.2, accuracy=0.45, macs=510),
    record("homodistil", 0.2, accuracy=0.45, macs=700),
    record("five_layers", 0.55, accuracy=0.35, method="shallow") | {"method_settings": {"num_layers": 5}},
]


def students(**sweeps: list[dict[str, Any]]) -> pd.DataFrame:
    named = {
        name: [one | {"cell": f"{name}{place}"} for place, one in enumerate(group)] for name, group in sweeps.items()
    }
    return results_of(Path("nowhere"), **named).students


def table(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("| ")][1:]


def test_what_a_budget_gives_at_each_size():
    """At a quarter 60 % and 64 % of the teacher's accuracy, from 1 and 4 million tokens."""
    found = students(shapes=[teacher(0.8), *STUDENTS, graded(record("homodistil", 0.6, accuracy=0.30), 0.6)])
    assert table(budget_lines(found[found["glue"].notna() | (found["kl"] != 0.6)])) == [
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 1/2 | all | 192-8x24-704 | 1.00 M | 16.7 | 16.7 | 1.7 | 0.2 | 0.200 | 90.0% | – |",
        "| 1/4 | all | 192-8x24-704 | 1.00 M | 16.7 | 16.7 | 1.7 | 0.2 | 0.600 | 60.0% | 75.0% |",
        "| 1/4 | 5 | 192-8x24-704 | 1.00 M | 16.7 | 16.7 | 1.7 | 0.2 | 0.550 | 70.0% | – |",
        "| 1/4 | all | 192-6x24-704 | 4.00 M | 66.7 | 66.7 | 6.7 | 0.7 | 0.450 | 66.0% | – |",
    ]
    assert budget_lines(students(shapes=[])) == []


def test_the_planned_shape_comes_before_a_nearer_one():
    planned = [record("homodistil", 0.5, accuracy=0.32, num_steps=40)]
    rows = table(budget_lines(students(methods_quarter=planned, shapes=STUDENTS[3:4])))
    assert rows[1:] == ["| 1/4 | all | 192-8x24-704 | 4.00 M | 66.7 | 66.7 | 6.7 | 0.7 | 0.500 | 64.0% | – |"]


def test_a_run_of_several_sweeps_counts_once_by_the_record_with_its_evaluations():
    copied = METHODS[0] | {"taken_from": "methods_quarter/homodistil,seed=0"}
    found = own_students(students(computation=[copied], methods_quarter=[teacher(0.8), graded(METHODS[0], 0.6)]))
    assert found["glue_kept"].tolist() == [pytest.approx(0.75)]


def test_tasks_one_by_one_beside_their_teacher():
    own = [graded(METHODS[0], 0.35, cola=0.2, rte=0.5), graded(METHODS[1], 0.55, cola=0.4, rte=0.7)]
    lines = glue_lines([teacher(0.6, cola=0.4, rte=0.8), *own, METHODS[3]], {})
    assert lines == [
        "|  | CoLA | RTE | mean | kept |",
        "| --- | --- | --- | --- | --- |",
        "| teacher | 0.400 | 0.800 | 0.600 | 100.0% |",
        "| homodistil | 0.300 ± 0.141 (2) | 0.600 ± 0.141 (2) | 0.450 ± 0.141 (2) | 75.0% |",
        "",
    ]
    assert glue_lines(own, {})[-2].endswith("| – |")
    lines = glue_lines([teacher(0.6, cola=0.4, rte=0.8), *own], {"cola": 0.0, "rte": 0.6, "sst2": 0.5})
    assert lines[-2] == "| the same for every row | 0.000 | 0.600 | 0.300 | 50.0% |"
    assert glue_lines(METHODS, {}) == []


def test_wide_steps_count_as_what_they_cost():
    """A layer of 4 · 192² + 2 · 192 · 704 + 2 · 128 · 192 MACs, twice as wide in half of the steps."""
    narrow, wide = (dict.fromkeys(("hidden", "attention", "ffn"), fraction) for fraction in (0.5, 1.0))
    slow = record("homodistil", 0.5) | {"kept_fractions": [wide | {"step": 5}, narrow | {"step": 10}]}
    once = record("one_shot", 0.5) | {"kept_fractions": [narrow | {"step": 10}]}
    layer = 4 * 192 * 192 + 2 * 192 * 704 + 2 * 128 * 192
    doubled = 4 * 384 * 384 + 2 * 384 * 1408 + 2 * 128 * 384
    macs = 5 * (1000 + 3 * 250 * doubled / layer) + 5 * (1000 + 3 * 250)
    assert run_macs(slow) == pytest.approx(macs)
    assert run_macs(once) == pytest.approx(10 * (1000 + 3 * 250) + 16 * 4 * 1000)
    line, _ = computation_line([slow, once])
    assert line.endswith(f"as a share of `homodistil`'s: `one_shot` {81500 / macs:.2f}.")
    assert computation_line([slow]) == computation_line([once]) == []


def test_a_family_stands_beside_runs_of_their_own():
    def run(arm, student, macs, kl, num_tokens):
        figures = {"kl": kl, "mlm_accuracy": 0.3, "num_tokens": num_tokens}
        return {"arm": arm, "student": student, "encoder_macs": macs, "teacher_macs": 1000} | figures

    members = [run(CHAIN, *facts, 10**6) for facts in (("macs=0.5", 505, 0.2), ("macs=0.25", 250, 0.4))]
    record = {"max_steps": 10, "runs": [*members, run(ALONE, "macs=0.25", 250, 0.45, 10**6)]}
    assert family_lines(None) == []
    record["runs"] += [run(CHAIN, "macs=0.125", 125, 0.9, 10**6), run(AS_MANY, "macs=0.25", 250, 0.41, 2 * 10**6)]
    assert table(family_lines(record))[1:] == [
        "| 0.505 | 0.200 nats, 0.300 right | 0.200 nats, 0.300 right | 0.200 nats, 0.300 right |",
        "| 0.250 | 0.400 nats, 0.300 right | 0.450 nats, 0.300 right | 0.410 nats, 0.300 right |",
        "| 0.125 | 0.900 nats, 0.300 right | not run | not run |",
    ]
