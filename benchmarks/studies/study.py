"""A study: a record, and the tables of a page that follow from it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.marked_pages import filled
from homodistil_hf.files.strict_json import read_json, write_json


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
        """The record; of JSON lines a list. Empty where there is no file."""
        is_lines = self.record.suffix == ".jsonl"
        if not self.record.is_file():
            return [] if is_lines else {}
        if is_lines:
            return [json.loads(line) for line in self.record.read_text(encoding="utf-8").splitlines()]
        return read_json(self.record, str(self.record))

    def write(self, content: Any) -> None:
        """Write the whole record."""
        write_json(self.record, content)

    def show(self) -> None:
        """Write the tables into the page."""
        self.page.write_text(self.page_text(), encoding="utf-8")

    def page_text(self) -> str:
        """The page with the tables of the record."""
        text = self.page.read_text(encoding="utf-8")
        for mark, lines in self.tables(self.read()).items():
            text = filled(text, mark, "\n".join(lines))
        return text
