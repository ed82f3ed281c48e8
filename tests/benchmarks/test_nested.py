"""The table of the study of nested students follows from its rows."""

from benchmarks.studies.nested import tables


def row(variant, sizes, seconds, **more):
    return {"kind": "masked words", "variant": variant, "seed": 0, "sizes": sizes, "processor_s": seconds} | more


def test_a_row_a_size_and_variant():
    rows = [
        row("own", {"macs=0.5": {"kl": 0.25}}, 60),
        row("own", {"macs=0.25": {"kl": 0.5}}, 120),
        row("nested", {"macs=0.5": {"kl": 0.26}, "macs=0.25": {"kl": 0.52}}, 120),
        row("nested", {"macs=0.5": {"kl": 0.28}, "macs=0.25": {"kl": 0.50}}, 240, seed=1),
    ]
    found = tables(rows)["masked_words"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found]
    assert cells[0] == ["size", "", "KL, nats", "minutes of all sizes"]
    assert cells[2:] == [
        ["macs=0.5", "own", "0.250", "3"],
        ["macs=0.5", "nested", "0.270 ± 0.014 (2)", "3"],
        ["macs=0.25", "own", "0.500", "3"],
        ["macs=0.25", "nested", "0.510 ± 0.014 (2)", "3"],
    ]
