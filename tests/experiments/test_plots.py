"""Plots are written small, as the same bytes each time, and say what they need."""

import pytest
from PIL import Image

from homodistil_hf.experiments import plots
from homodistil_hf.experiments.plots import plot_discrepancy


def test_a_plot_is_written_with_few_colours(tmp_path):
    curves = {"student": [(0, 0.0), (10, 0.5)], "other": [(0, 0.25), (10, 0.125)]}
    first, second = (plot_discrepancy(curves, tmp_path / name) for name in ("plot.png", "again.png"))
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "P", (990, 462))
    assert first.stat().st_size < 20_000


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "can_plot", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'homodistil-hf\[report\]'"):
        plot_discrepancy({"student": [(0, 0.0)]}, tmp_path / "plot.png")
