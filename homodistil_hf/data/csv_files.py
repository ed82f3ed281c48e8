"""CSV and TSV files as they are written, all of words: pandas would take "null" for a missing value, 007 for a number.

corpus.py reads their texts, task_rows/reading.py their rows.
"""

import csv
from pathlib import Path
from typing import Any

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Endings of files of words, and what stands between these."""


def separator_of(file: Path) -> str:
    """Return what stands between words: the ending's separator, or another one where only that is in the first line.

    Spreadsheets write semicolons in countries with decimal commas.
    """
    usual = SEPARATORS[file.suffix.lower()]
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        line = opened.readline()
    return usual if usual in line else next((other for other in ",;\t" if other in line), usual)


def header_of(file: Path) -> tuple[str, ...]:
    """Return the names of a file's columns, from its first line."""
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as opened:
        return tuple(next(csv.reader(opened, delimiter=separator_of(file)), ()))


def csv_settings(file: Path) -> dict[str, Any]:
    """Return the settings by which the reader of `datasets` takes every cell as a word; none for other files."""
    if file.suffix.lower() not in SEPARATORS:
        return {}
    return {"sep": separator_of(file), "converters": dict.fromkeys(header_of(file), str), "keep_default_na": False}
