"""Page and plot of the study of nested students follow from its rows."""

import pytest

from benchmarks.plots import can_plot
from benchmarks.studies.nested import METRICS, STUDY, draw, tables


def row(variant, sizes, seconds, **more):
    return {"kind": "masked words", "variant": variant, "seed": 0, "sizes": sizes, "processor_s": seconds} | more


ROWS = [
    row("own", {"macs=0.5": {"kl": 0.25, "mlm_accuracy": 0.5}}, 60),
    row("own", {"macs=0.25": {"kl": 0.5}}, 120),
    row("own", {"macs=0.25": {"kl": 0.48}}, 180, seed=1),
    row("nested", {"macs=0.5": {"kl": 0.26}, "macs=0.25": {"kl": 0.52}}, 120),
    row("nested", {"macs=0.5": {"kl": 0.28}, "macs=0.25": {"kl": 0.49}}, 240, seed=1),
    row("nested", {"macs=0.5": {"cosine": 0.9, "qnli": 0.8}, "macs=0.44": {"qnli": 0.75}}, 600, kind="embedding"),
]


def cells_of(lines):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_a_row_a_size_and_variant():
    lines = tables(ROWS)["measured"]
    assert lines[0].startswith("![")
    place = lines.index("Masked words, 6 × 384:")
    cells = cells_of(lines[place:])
    assert cells[0] == ["size", "", "KL, nats", "to its own run", "words right, %", "minutes of all sizes"]
    assert cells[2:] == [
        ["macs=0.5", "own", "0.250", "", "50.0", "3"],
        ["macs=0.5", "nested", "0.270 ± 0.014 (2)", "+0.010", "", "3"],  # the first seed alone has a run of its own
        ["macs=0.25", "own", "0.490 ± 0.014 (2)", "", "", "3"],
        ["macs=0.25", "nested", "0.505 ± 0.021 (2)", "+0.015 ± 0.007 (2)", "", "3"],
    ]
    assert cells_of(lines[:place])[2:] == [
        ["macs=0.5", "nested", "90.0", "", "", "80.0", "10"],
        ["macs=0.44", "nested", "", "", "", "75.0", "10"],
    ]


@pytest.mark.skipif(not can_plot(), reason="matplotlib is not installed")
def test_a_panel_a_kind(tmp_path):
    draw(ROWS, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_before_a_record_the_page_says_so(tmp_path, monkeypatch):
    assert tables([]) == {"measured": ["Nothing was measured yet about what a size loses against a run of its own."]}
    assert [*METRICS] == ["embedding", "masked words", "sst2", "punctuation"]
    monkeypatch.chdir(tmp_path)
    assert STUDY.read() == []
