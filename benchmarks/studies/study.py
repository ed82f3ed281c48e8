"""A study: a record, and the tables of a page that follow from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.marked_pages import filled_in
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
        """The record; of JSON lines a list."""
        reader = read_json_rows if self.record.suffix == ".jsonl" else read_json
        return reader(self.record, str(self.record))

    def page_text(self) -> str:
        """The page with the tables of the record."""
        tables = self.tables(self.read()).items()
        return filled_in(self.page, {mark: "\n".join(lines) for mark, lines in tables})
