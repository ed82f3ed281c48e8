"""A sweep's figures from records made by hand: seeds taken together, searches, tables, curves, what is missing."""

from sweep_records import record, sweep_of

from benchmarks.sweep.cells import Cell, Choice
from benchmarks.sweep.folder import record_head
from benchmarks.sweep.tables import chosen, searches, sweep_table

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
