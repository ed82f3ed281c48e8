"""CSV and TSV files as they are written, all of words: pandas would take "null" for a missing value, 007 for a number.

corpus.py reads their texts, task_rows/reading.py their rows.
"""

import csv
from pathlib import Path
from typing import Any

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Endings of files of words, and what stands between these."""


def header_of(file: Path) -> tuple[str, ...]:
    """Return the names of a file's columns, from its first line."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as opened:
        return tuple(next(csv.reader(opened, delimiter=SEPARATORS[file.suffix.lower()]), ()))


def csv_settings(file: Path) -> dict[str, Any]:
    """Return the settings by which the reader of `datasets` takes every cell as a word; none for other files."""
    if (separator := SEPARATORS.get(file.suffix.lower())) is None:
        return {}
    return {"sep": separator, "converters": dict.fromkeys(header_of(file), str), "keep_default_na": False}
