"""Plots are written, as the same bytes each time, and say what they need."""

import sys

import pytest

from homodistil_hf.runs.plots import plot_discrepancy


@pytest.mark.slow
def test_a_plot_is_written_in_the_format_of_its_suffix(tmp_path):
    curves = {"student": [(0, 0.0), (10, 0.5)], "other": [(0, 0.25), (10, 0.125)]}
    first, second = (plot_discrepancy(curves, tmp_path / name) for name in ("plot.png", "again.png"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in plot_discrepancy(curves, tmp_path / "plot.svg").read_text(encoding="utf-8")


def texts_of(svg):
    """Names that an image spells: matplotlib leaves each in a comment."""
    return [line.strip()[5:-4] for line in svg.read_text(encoding="utf-8").splitlines() if line.strip()[:4] == "<!--"]


@pytest.mark.slow
@pytest.mark.parametrize("num_lines", [6, 7])
def test_few_lines_have_their_name_beside_them_and_many_a_box(tmp_path, num_lines):
    curves = {f"line {index}": [(0, 0.0), (10, 0.5)] for index in range(num_lines)}
    svg = plot_discrepancy(curves, tmp_path / "plot.svg")
    assert [text for text in texts_of(svg) if text.startswith("line")] == list(curves)
    assert ('id="legend_1"' in svg.read_text(encoding="utf-8")) == (num_lines > 6)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'homodistil-hf\[report\]'"):
        plot_discrepancy({"student": [(0, 0.0)]}, tmp_path / "plot.png")
