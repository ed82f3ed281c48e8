"""A sweep's figures from records made by hand: seeds taken together, searches, tables, curves, what is missing."""

from typing import Any

import pytest
from sweep_records import METHODS, record, sweep_of

from benchmarks.sweep.cells import TEACHER, Cell, Choice
from benchmarks.sweep.folder import read_record, read_records, record_head, write_record, write_records
from benchmarks.sweep.plots import discrepancy_curves, plot_sweep, quality_points
from benchmarks.sweep.tables import chosen, over_seeds, searches, sweep_table, tokens_per_second
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


def test_the_best_rate_is_searched_in_each_group():
    assert best_values(RATES, CHOICE) == {("a", 10): 1e-4, ("a", 20): 1e-4, ("b", 10): 1e-3}
    assert [one["evaluation"]["kl"] for one in chosen(RATES, CHOICE)] == [0.75, 0.75, 0.4, 0.6, 0.3, 0.3]
    assert chosen(RATES, None) == RATES
    rising = [record("a", 1.0, accuracy=0.1 + rate, axes={"learning_rate": rate}) for rate in (0.1, 0.2)]
    assert best_values(rising, Choice("learning_rate", "mlm_accuracy", ("variant",))) == {("a",): 0.2}


def best_values(records: Any, choice: Choice) -> dict[Any, Any]:
    return {key: search.best for key, search in searches(records, choice).items()}


def at_the_edge(records: Any, choice: Choice) -> list[Any]:
    return [key for key, search in searches(records, choice).items() if search.is_at_the_edge]


def test_a_best_value_at_the_edge_is_told():
    rates = [record("a", kl, axes={"learning_rate": rate}) for rate, kl in ((1e-4, 0.5), (2e-4, 0.4), (4e-4, 0.6))]
    search = Choice("learning_rate", "kl", ("variant",))
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


@pytest.mark.parametrize(
    ("values", "best"),
    [([None, 2e-4], None), ([None], None), (["linear", "cosine"], "linear"), ([1e-4, "measured", True], 1e-4)],
)
def test_values_that_are_no_numbers_are_searched_without_an_edge(values, best):
    records = [record("a", kl, axes={"learning_rate": value}) for kl, value in enumerate(values, start=1)]
    search = Choice("learning_rate", "kl", ("variant",))
    assert best_values(records, search) == {("a",): best}
    assert at_the_edge(records, search) == []
    assert [one["axes"]["learning_rate"] for one in chosen(records, search)] == [best]
    assert "perhaps better beyond" not in sweep_table(sweep_of(records, choose=search), records)


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


def test_a_table_of_nothing_says_so():
    table = sweep_table(sweep_of(METHODS), [])
    assert "- not run: none of its 12 cells" in table
    assert "| " not in table


@pytest.mark.slow
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


def test_layers_of_different_widths_count_without_their_padding():
    uneven = record("global_widths", 0.9, macs=411)
    uneven["models"]["compact"] = uneven["models"]["student"] | {"encoder_macs": 250, "num_parameters": 3_000_000}
    table = sweep_table(sweep_of([uneven]), [uneven])
    assert "| global_widths | 3.00 M (4.00 padded) | 0.250 (0.411 padded) |" in table


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"evaluation": {"kl": "small"}}, "evaluation"),
        ({"models": {"teacher": {}, "student": {}}}, "models"),
        ({"settings": {"seed": "x"}}, "settings"),
        ({"axes": {"seed": 7}}, "axes"),
        ({"status": "impossible"}, "reason"),
        ({"error": 5}, "error"),
        ({"evaluate": {"glue": 1}}, "evaluate"),
    ],
)
def test_a_record_edited_by_hand_is_told(tmp_path, change, wrong):
    write_record(tmp_path / "mine.json", METHODS[0])
    assert read_record(tmp_path / "mine.json") == METHODS[0]
    write_record(tmp_path / "mine.json", METHODS[0] | change)
    with pytest.raises(ValueError, match=rf"^record 'mine.json' has {wrong}=.*, which no sweep .* remove it"):
        read_records(tmp_path)
    write_records(tmp_path / "mine.jsonl", [METHODS[0], METHODS[1] | change])
    with pytest.raises(ValueError, match=rf"^line 2 of 'mine.jsonl' has {wrong}="):
        read_records(tmp_path / "mine.jsonl")
