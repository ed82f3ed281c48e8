"""The section `runtimes` of facts, which `homodistil_hf/deploy/` writes, as a table for cards and terminals."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..files.strict_json import fits, is_number
from .markdown import card_table, plain_text

RUNTIMES = "runtimes"
BATCH_SIZES = (1, 32)
"""Texts of a pass that is timed."""
_ROW: dict[str, Any] = {
    "target": str,
    "file": str,
    "runtime": str,
    "size_bytes": int,
    "is_written": bool,
    "fidelity_name": str,
    "figures": {...: int | float},
    "latency_ms": {...: {...: int | float}},
    "not_run": str,
}
_HEADER = ("file", "run by", "MB", "as the student", "largest difference")


def runtime_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the section, those of another shape left out; empty where there is none."""
    section = facts.get(RUNTIMES)
    rows = section.get("rows") if isinstance(section, Mapping) else None
    return [row for row in rows if fits(row, _ROW)] if isinstance(rows, list) else []


def runtime_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a file and runtime each, its likeness to the student, and times beside the teacher's."""
    sides = [side for side in ("student", "teacher") if any(side in row["latency_ms"] for row in rows)]
    times = [(side, size) for size in BATCH_SIZES for side in sides]
    header = [*_HEADER, *(f"ms, {size} text{'s' * (size > 1)}, {side}" for side, size in times)]
    cells = []
    for row in rows:
        file = row["file"] if row["is_written"] else f"{row['file']}, not written"
        spent = [row["latency_ms"].get(side, {}).get(str(size)) for side, size in times]
        largest = row["figures"].get("largest_difference")
        difference = f"{largest:.1e}" if is_number(largest) else ""
        cells.append([file, row["runtime"], f"{row['size_bytes'] / 1e6:.1f}", _likeness(row), difference])
        cells[-1] += ["" if ms is None else f"{ms:.1f}" for ms in spent]
    return header, cells


def runtimes_text(facts: Mapping[str, Any]) -> str:
    """Paragraphs for a card, an empty line before them; empty where nothing was deployed."""
    rows = runtime_rows(facts)
    if not rows:
        return ""
    header, cells = runtime_cells(rows)
    section = facts[RUNTIMES]
    words = [
        "For other runtimes, each file run beside this model on the same texts; times on one machine, in turns with "
        "the model that it was made from:",
        card_table(header, cells),
    ]
    if isinstance(note := section.get("note"), str) and note:
        words.append(plain_text(note))
    return "".join(f"\n\n{part}" for part in words)


def _likeness(row: Mapping[str, Any]) -> str:
    if "fidelity" not in row["figures"]:
        return f"not run: {row['not_run']}"
    words = {"fidelity": row["fidelity_name"], "lowest_cosine": "lowest", "neighbours": "neighbours kept"}
    figures = {word: row["figures"][name] for name, word in words.items() if name in row["figures"]}
    # rounded down, so that 1 means 1
    shares = {
        word: "1" if value >= 1 - 1e-6 else f"{int(value * 1e4) / 1e4:.4f}".removeprefix("0")
        for word, value in figures.items()
    }
    return ", ".join(f"{word} {share}" for word, share in shares.items())
