"""CSV and TSV as they are written: separator, quotes and header, and cells a line that are compared with the header.

pandas reads them by these settings, all of words: alone it would take "null" for a missing value and 007 for a number,
make an index of a first column where lines have a cell more than the header, and swallow lines behind a stray quote.
"""

import ast
import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from ..files.messages import first_of, short_repr

SEPARATORS = {".csv": ",", ".tsv": "\t"}
"""Endings of files of words, and what stands between these."""
_QUOTE = '"'
_ARRAY = re.compile(r"\barray\((\[.*?\])(?:,\s*dtype=\w+)?\)", re.DOTALL)


def header_of(file: Path) -> tuple[str, ...]:
    """Return the names of a file's columns, from its first line."""
    with _opened(file) as opened:
        return tuple(next(csv.reader(opened, **_separation(file)), ()))


def _separation(file: Path) -> dict[str, Any]:
    """How cells are parted: by the ending's separator, or by another one where only that is in the first line.

    Spreadsheets write semicolons in countries with decimal commas. Blanks behind separators belong to no cell where
    the first line has them behind all.
    """
    usual = SEPARATORS[file.suffix.lower()]
    with _opened(file) as opened:
        line = opened.readline()
    separator = usual if usual in line else next((other for other in ",;\t" if other in line), usual)
    between = line.split(separator)[1:]
    return {"delimiter": separator, "skipinitialspace": bool(between) and all(cell[:1] == " " for cell in between)}


def csv_settings(file: Path) -> dict[str, Any]:
    """Return the settings by which pandas takes every cell as a word; none for files that are neither CSV nor TSV."""
    if file.suffix.lower() not in SEPARATORS:
        return {}
    return {
        **_separation(file),
        "quoting": csv.QUOTE_MINIMAL if _has_quoted_cells(file) else csv.QUOTE_NONE,
        "converters": dict.fromkeys(_names_of_pandas(header_of(file)), str),
        "keep_default_na": False,
        "index_col": False,
    }


def _names_of_pandas(header: Sequence[str]) -> list[str]:
    # of columns of one name the second is read as NAME.1
    numbers = [header[:at].count(name) for at, name in enumerate(header)]
    return [f"{name}.{number}" if number else name for name, number in zip(header, numbers, strict=True)]


def _has_quoted_cells(file: Path) -> bool:
    """Whether quotes enclose cells: always in CSV; in TSV where every quote that begins a cell also ends one.

    Lines that have as many cells as the header with their quotes as letters are such lines.
    """
    if _separation(file)["delimiter"] != "\t":
        return True
    widths, are_closed = set(), True
    for _, cells in _lines(file, csv.QUOTE_NONE):
        widths.add(len(cells))
        are_closed &= all(len(cell) > 1 and cell.endswith(_QUOTE) for cell in cells if cell.startswith(_QUOTE))
    if are_closed:
        return True
    # a tab or a line's end may stand in a quoted cell
    if widths == {len(header_of(file))}:
        return False
    try:
        return {len(cells) for _, cells in _lines(file, csv.QUOTE_MINIMAL)} == {len(header_of(file))}
    except csv.Error:
        return False


def check_cells(file: Path, label: str) -> int:
    """Count the rows; refuse, by a ValueError with the line, more cells than the header has, or an open quote."""
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if _has_quoted_cells(file) else csv.QUOTE_NONE
    header, number, count = header_of(file), 1, 0
    try:
        for count, (number, cells) in enumerate(_lines(file, quoting)):  # noqa: B007 — the last are returned and told
            if len(cells) > len(header):
                raise ValueError(
                    f"{label}: line {number:,} of {file.name} has {len(cells)} cells, the header {len(header)} "
                    f"({first_of(header)}): {short_repr(cells)}; put quotes around cells with a "
                    f"{short_repr(_separation(file)['delimiter'])} in them, or name all columns in the first line"
                )
    except csv.Error as error:
        raise ValueError(
            f"{label}: a quote behind line {number:,} of {file.name} does not end its cell ({error}); write quotes "
            'inside of quoted cells twice ("")'
        ) from error
    return count


def _lines(file: Path, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str]]]:
    """The number of the line that a row begins in, and its cells; empty lines are none."""
    csv.field_size_limit(sys.maxsize)  # cells may be of any size
    with _opened(file) as opened:
        # pandas takes a line of blanks for an empty one
        blanks = " \r\n" if _separation(file)["delimiter"] == "\t" else None
        filled = (line if line.strip(blanks) else "\n" for line in opened)
        lines, begun = csv.reader(filled, quoting=quoting, strict=True, **_separation(file)), 1
        for cells in lines:
            if cells:
                yield begun, cells
            begun = lines.line_num + 1


def parsed_cell(cell: str) -> Any:
    """What a cell of a file of words holds that was written as JSON, or by Python, as pandas does; else the cell.

    Example:
    ```python
    >>> parsed_cell('["a"]'), parsed_cell("{'b': array([1, 2], dtype=int32)}"), parsed_cell("c")
    (['a'], {'b': [1, 2]}, 'c')

    ```
    """
    bare = cell.strip().removeprefix("set")
    # tuples and sets are lists, in the order that they are written in
    listed = [f"[{bare[1:-1].rstrip(', ')}]"] if bare[:1] in ("(", "{") else []
    # lists in a `datasets` row, as its `to_csv` writes them
    for text in (cell.strip(), *listed, _ARRAY.sub(r"\1", cell.strip())):
        try:
            return json.loads(text)
        except (RecursionError, ValueError):
            pass
        try:
            value = ast.literal_eval(text)
        except (MemoryError, RecursionError, SyntaxError, TypeError, ValueError):
            continue
        # ['a' 'b'], an array of NumPy, would be ['ab']
        if not isinstance(value, set | tuple) and "".join(repr(value).split()) == "".join(text.split()):
            return value
    return cell


def _opened(file: Path) -> TextIO:
    return file.open(encoding="utf-8-sig", errors="replace", newline="")
