"""Rows → tables of text. Where the numbers come from isn't here."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

# Key of a row → heading, format.
_COLUMNS = {
    "name": ("", "{}"),
    "num_parameters": ("parameters", "{:,}"),
    "num_encoder_parameters": ("without head", "{:,}"),
    "encoder_macs": ("encoder MACs", "{:,}"),
    "size_bytes": ("bytes", "{:,}"),
    "latency_ms": ("latency, ms", "{:.2f}"),
    "kl": ("KL, nats", "{:.3f}"),
    "mlm_loss": ("MLM loss, nats", "{:.3f}"),
    "mlm_accuracy": ("MLM accuracy", "{:.1%}"),
}


_COSTS = ("num_parameters", "num_encoder_parameters", "encoder_macs", "size_bytes")


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay models out as a table of text.

    Args:
        rows: one a model, with some of the keys `name`, `num_parameters`, `encoder_macs`, `size_bytes`, `latency_ms`,
            `kl`, `mlm_loss` and `mlm_accuracy`; None where a value is unknown.

    Returns:
        `str`: lines without a line break at the end; columns that no row has are left out.

    Example:
    ```python
    >>> print(format_table([{"name": "teacher", "num_parameters": 1200, "kl": 0.0}, {"name": "student", "kl": 0.25}]))
             parameters  KL, nats
    teacher       1,200     0.000
    student           –     0.250

    ```
    """
    columns = {key: shape for key, shape in _COLUMNS.items() if any(key in row for row in rows)}
    cells = [[heading for heading, _ in columns.values()]]
    cells += [[_cell(row.get(key), shape) for key, (_, shape) in columns.items()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(_line(line, widths) for line in cells)


def format_plan(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Tell what a student will be and cost beside its teacher.

    Args:
        costs: `teacher`, `student` and `padded` (the student as a stock BERT), each as [`planned_facts`] has it, and
            `cost_fractions`.

    Returns:
        `str`: lines.
    """
    names = {"teacher": "teacher", "student": "student", "padded": "padded to stock BERT"}
    if costs["padded"]["plan"] == costs["student"]["plan"]:
        del names["padded"]
    widths = [
        f"{name}: {facts['architecture']}, {facts['num_hidden_layers']} layers, {json.dumps(facts['plan'])}"
        for name, facts in costs.items()
        if name in ("teacher", "student")
    ]
    rows = [{"name": label, **{key: costs[name].get(key) for key in _COSTS}} for name, label in names.items()]
    fractions = costs["cost_fractions"]
    shares = (
        f"student / teacher: parameters {fractions['num_parameters']:.3f}, MACs {fractions['encoder_macs']:.3f}\n"
        "(encoder MACs: multiply-accumulates of one token through all layers at length 128; bytes: float32)"
    )
    return "\n".join([*widths, "", format_table(rows), "", shares])


def format_results(results: Mapping[str, Any], output_dir: str) -> str:
    """Tell how a run ended and how its student is loaded.

    Args:
        results: content of the run's `results.json`.
        output_dir: folder of the run.

    Returns:
        `str`: lines.
    """
    folder = output_dir.rstrip("/")
    student = f"{folder}/student"
    return f"""
{format_table(results["models"])}

{results["num_steps"]:,} steps, {results["time_s"]:,.0f} s; see {folder}/results.json. The student:

  from transformers import AutoModelForMaskedLM, AutoTokenizer
  model = AutoModelForMaskedLM.from_pretrained({student!r})
  tokenizer = AutoTokenizer.from_pretrained({student!r}){_format_snapshots(results.get("snapshots", ()), folder)}"""


def _format_snapshots(snapshots: Sequence[str], folder: str) -> str:
    if not snapshots:
        return ""
    return "\n\nStudents on the way, loaded alike:\n\n" + "\n".join(f"  {folder}/{name}" for name in snapshots)


def _cell(value: Any, shape: str) -> str:
    return "–" if value is None else shape.format(value)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *values = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return "  ".join([name.strip().ljust(widths[0]), *values]).rstrip()
