"""Where a step's time goes, as a bar chart; needs matplotlib (the extra `report`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.profiles import PARTS
from homodistil_hf.experiments.plots import save_figure


def draw_parts(results: Mapping[str, Any], file: Path) -> None:
    """Draw the parts of every arm's step, stacked.

    Args:
        results: of `run_bench`.
        file: to write; its suffix is the format.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"{file} can't be drawn without matplotlib; pip install homodistil-hf[report]") from error
    arms = results["arms"]
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(arms)), dpi=110)
    axes = figure.subplots()
    left = dict.fromkeys(arms, 0.0)
    for part in PARTS:
        milliseconds = [1000 * facts["part_seconds"][part] for facts in arms.values()]
        axes.barh(list(arms), milliseconds, left=list(left.values()), label=part)
        left = {name: left[name] + value for name, value in zip(arms, milliseconds, strict=True)}
    settings = results["settings"]
    axes.invert_yaxis()
    axes.set_xlabel("ms a step (profiled, median)")
    axes.set_title(
        f"{settings['shape']}, {settings['batch_size']} × {settings['length']}, {settings['dtype']}, "
        f"attention term {'on' if settings['attention_weight'] else 'off'}"
    )
    axes.legend(fontsize="small", ncol=2)
    figure.tight_layout()
    save_figure(figure, file)
