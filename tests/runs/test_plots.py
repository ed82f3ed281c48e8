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


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'homodistil-hf\[report\]'"):
        plot_discrepancy({"student": [(0, 0.0)]}, tmp_path / "plot.png")
