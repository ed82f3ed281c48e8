"""Plots are written, as the same bytes each time, and say what they need."""

import sys

import pytest

from benchmarks.plots import draw
from benchmarks.spread import Spread


def plotted(curves, file):
    points = {name: [(step, Spread.of([kl])) for step, kl in curve] for name, curve in curves.items()}
    return draw(points, file, xlabel="optimizer step")


@pytest.mark.slow
def test_a_plot_is_written_in_the_format_of_its_suffix(tmp_path):
    curves = {"student": [(0, 0.0), (10, 0.5)], "other": [(0, 0.25), (10, 0.125)]}
    first, second = (plotted(curves, tmp_path / name) for name in ("plot.png", "again.png"))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG")
    assert "<svg" in plotted(curves, tmp_path / "plot.svg").read_text(encoding="utf-8")


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'homodistil-hf\[report\]'"):
        plotted({"student": [(0, 0.0)]}, tmp_path / "plot.png")


def test_a_spread_is_that_of_samples():
    assert f"{Spread.of([0.1, 0.2, 0.3])} | {Spread.of([0.25])}" == "0.200 ± 0.100 (3) | 0.250"
    assert f"{Spread.of([0.1, 0.2, 0.3]):+.1%}" == "+20.0% ± 10.0% (3)"
