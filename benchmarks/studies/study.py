"""A study: a record, and the tables of a page that follow from it."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.marked_pages import filled_in
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json, read_json_rows


@dataclass(frozen=True)
class Study:
    """A record and its page.

    Args:
        record: JSON file, or JSON lines with a row each.
        page: has marks for the tables.
        tables: takes the record, returns mark → lines of its table.
    """

    record: Path
    page: Path
    tables: Callable[[Any], Mapping[str, Sequence[str]]]

    def read(self) -> Any:
        """The record; of JSON lines a list, which is empty where nothing was recorded yet."""
        if self.record.suffix == ".jsonl" and not self.record.is_file():
            return []
        reader = read_json_rows if self.record.suffix == ".jsonl" else read_json
        return reader(self.record, str(self.record))

    def page_text(self) -> str:
        """The page with the tables of the record."""
        tables = self.tables(self.read()).items()
        return filled_in(self.page, {mark: "\n".join(lines) for mark, lines in tables})


def record_cells(file: Path, cells: Iterable[dict[str, Any]], run: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Run the cells that a file of JSON lines has no row of, and add a row for each."""
    for cell in cells:
        rows = read_json_rows(file, str(file)) if file.is_file() else []
        if cell not in [{name: row[name] for name in cell} for row in rows]:
            row = json.dumps(cell | run(cell) | {"machine": machine_facts()})
            with file.open("a", encoding="utf-8") as lines:
                lines.write(row + "\n")


def flags(values: Mapping[str, Any]) -> list[str]:
    """Words of a command line."""
    return [part for name, value in values.items() for part in (f"--{name}", str(value))]
