"""What the page of results is written from, with records made by hand in place of those in docs/results/."""

from pathlib import Path
from typing import Any

from sweep_records import sweep_of

from benchmarks.results.students import Results
from benchmarks.results.tables import Tables


def results_of(folder: Path, **sweeps: list[dict[str, Any]]) -> Results:
    """The results that have just these records; on all held-out text what `write_results` wrote."""
    names = ("sizes", "tokens", "baselines", "shapes", "ablations")
    records = {name: [] for name in names} | sweeps
    return Results(folder, {name: sweep_of(found) for name, found in records.items()}, records)


def tables_of(folder: Path, **sweeps: list[dict[str, Any]]) -> Tables:
    """The page's tables of them."""
    return Tables(results_of(folder, **sweeps))


def rows_of(table: list[str]) -> list[str]:
    """The rows of a table without its head."""
    return table[2:]
