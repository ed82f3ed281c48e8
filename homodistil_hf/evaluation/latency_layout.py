"""Latencies as lines of text, for the terminal. The numbers come from `comparison.py`."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH = 118


def format_latencies(results: Mapping[str, Any]) -> str:
    """Lay a comparison out as a table.

    Args:
        results: what [`compare_latencies`] returned.

    Returns:
        `str`: one line a cell and model: median and quartiles in ms, speed-up over the reference with the quartiles
        of its rounds; skipped cells with their reason.
    """
    rows = [("backend", "batch", "length", "model", "median, ms", "quartiles, ms", "speed-up", "quartiles")]
    notes = []
    for cell in results["cells"]:
        place = (cell["backend"], str(cell["batch_size"]), str(cell["length"]))
        if "skipped" in cell:
            notes.append(f"skipped: {cell['backend']}, batch {place[1]}, length {place[2]}: {cell['skipped']}")
            continue
        rows += [(*place, *_figures(name, cell)) for name in cell["latency"]]
    machine = results["machine"]
    about = (
        f"float32, {machine['num_threads']} threads on {machine['processor']}; medians over "
        f"{results['settings']['num_rounds']} rounds in turns; "
        + ("whole models" if results["settings"]["with_head"] else "embeddings and encoder, no head")
    )
    return "\n".join([*_aligned(rows), "", *notes, *textwrap.wrap(about, _WIDTH)])


def format_planned_latency(facts: Mapping[str, Any]) -> str:
    """Tell what a plan made for a latency budget takes, predicted and, where it was measured, measured.

    Args:
        facts: `limit_ms`, `conditions`, `predicted_ms`, and maybe `measured`, what [`measure_plan`] returned.

    Returns:
        `str`: lines.
    """
    conditions, predicted = facts["conditions"], facts["predicted_ms"]
    place = f"batch {conditions['batch_size']}, length {conditions['length']}, {conditions['backend']}, float32"
    lines = [
        f"latency of embeddings and encoder on this machine ({place}), budget {facts['limit_ms']:g} ms",
        f"  predicted: student {predicted['student']:.2f} ms, teacher {predicted['teacher']:.2f} ms",
    ]
    if measured := facts.get("measured"):
        latency, ratio = measured["latency"], measured["speed_up"]
        figures = [
            f"{name} {latency[name]['median_ms']:.2f} ms "
            f"({latency[name]['lower_quartile_ms']:.2f} – {latency[name]['upper_quartile_ms']:.2f})"
            for name in ("student", "teacher")
        ]
        spread = f"{ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f}"
        lines.append(f"  measured:  {', '.join(figures)}; {ratio['ratio']:.2f}× ({spread}) as fast")
    return "\n".join(lines)


def _figures(name: str, cell: Mapping[str, Any]) -> tuple[str, ...]:
    latency = cell["latency"][name]
    spread = f"{latency['lower_quartile_ms']:.2f} – {latency['upper_quartile_ms']:.2f}"
    ratio = cell["speed_up"].get(name)
    if ratio is None:
        return name, f"{latency['median_ms']:.2f}", spread, "", ""
    quartiles = f"{ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f}"
    return name, f"{latency['median_ms']:.2f}", spread, f"{ratio['ratio']:.2f}×", quartiles


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {0, 3}  # names
    return [
        "  ".join(
            cell.ljust(width) if index in left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
