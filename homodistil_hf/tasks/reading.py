"""Rows with all their columns, from files as people have them, folders and Hub data sets; questions of SQuAD, too.

data/sources.py finds the files and reads parquet, Arrow and text; CSV and JSON are read here, as they are written.
"""

import glob
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetsError

from ..data.delimited import SEPARATORS, check_cells, csv_settings, header_of
from ..data.sources import local_files, read_source
from ..files.caches import full_disk
from ..files.messages import first_line, join_some, short_repr
from ..files.strict_json import read_json_rows
from .word_lines import grouped, is_conll, read_conll

_JSON = (".json", ".jsonl")
_STRING, _LARGE = Value("string"), Value("large_string")
_ANSWER_COLUMNS = ("text", "answer_start")


def load_rows(sources: Sequence[str], *, split: str = "train", argument: str = "train_data") -> Dataset:
    """Read rows with all columns.

    Args:
        sources: files (.parquet, .arrow, .json, .jsonl, .csv, .tsv, .txt), folders, globs or Hub data sets; the rows
            of one follow those of the one before.
        split: to take from a folder or a Hub data set.
        argument: the user's name for them in messages.

    Returns:
        `Dataset`: columns of CSV files hold words, as they are written.

    Raises:
        ValueError: an empty or unreadable source, or sources whose columns don't fit.
        OSError: a file can't be read.
    """
    if not sources:
        raise ValueError(f"{argument} is not set; name files, folders or Hub data sets with rows")
    parts = [part for name in sources for part in _read(name, split, f"{argument}={name!r}")]
    if len({str(part.features) for part in parts}) > 1:  # kinds of string, which `datasets` does not mix
        parts = [
            part.cast(Features({name: _LARGE if one == _STRING else one for name, one in part.features.items()}))
            for part in parts
        ]
    try:
        rows = grouped(datasets.concatenate_datasets(parts))
    except (ValueError, pyarrow.ArrowException) as error:
        raise ValueError(
            f"{argument}={short_repr(list(sources))} have columns of other types ({first_line(error)[:200]}); make "
            "them alike"
        ) from error
    if not len(rows):
        columns = join_some(map(repr, rows.column_names))
        raise ValueError(
            f"{argument}={join_some(map(repr, sources))} has the columns {columns}, but no rows; add some"
        )
    return rows


def _read(name: str, split: str, label: str) -> Iterator[Dataset]:
    files = local_files(name, split, label)
    written = [file for file in files if file.suffix.lower() in (*SEPARATORS, *_JSON)]
    lines = [file for file in files if is_conll(file)]
    others = [file for file in files if file not in (*written, *lines)]
    if others or not files:
        yield from read_source(others or name, split=split, streaming=False, label=label, line_by_line=True)
    for file in written:
        yield read_json(file, label) if file.suffix.lower() in _JSON else _as_written(file, label)
    for file in lines:
        yield read_conll(file, label)


def _as_written(file: Path, label: str) -> Dataset:
    """A CSV file's rows, all of words."""
    num_rows = check_cells(file, label)
    if num_rows == 0:
        return Dataset.from_dict({name: [] for name in header_of(file)})
    try:
        rows = Dataset.from_csv(glob.escape(str(file)), **csv_settings(file))
    except (DatasetsError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        if full := full_disk(cause):
            raise full from error
        remedy = f"check what {file.name} holds"
        if isinstance(cause, UnicodeDecodeError):
            remedy = "expected UTF-8: convert it, as by `iconv -f ISO-8859-1 -t UTF-8`"
        raise ValueError(
            f"{label} is unreadable ({type(cause).__name__}: {first_line(cause)[:200]}); {remedy}"
        ) from error
    if len(rows) != num_rows:
        raise ValueError(f"{label}: {file.name} has {num_rows:,} rows, but {len(rows):,} were read; check its quotes")
    return rows


def read_json(file: Path, label: str) -> Dataset:
    """Read the rows of a JSON file: lines, a list, an object with a list `data`, or SQuAD's nested questions.

    A column with values of several types, such as spans `[0, 5, "PER"]`, holds their JSON, or the words themselves.
    """
    rows = read_json_rows(file, label)
    if isinstance(rows[0].get("data"), dict) and rows[0].keys() & {"annotations", "completions"}:
        raise ValueError(f"{label}: {file.name} is Label Studio's full export; export it again, as JSON-MIN")
    rows = list(flattened_questions(rows, label)) if "paragraphs" in rows[0] else rows
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table: dict[str, pyarrow.Array] = {}
    for column in columns:
        try:
            array = pyarrow.array([row.get(column) for row in rows])
            Dataset(pyarrow.table({column: array}))  # fails here for types that are nested too deeply
        except UnicodeEncodeError as error:
            # JSON may hold half of a pair that stands for one character
            word = repr(error.object)[1:-1]
            place = next(place for place, row in enumerate(rows, 1) if word in repr(row.get(column)))
            raise ValueError(
                f"{label}: row {place:,} has {column}={short_repr(error.object)}, half of a surrogate pair; correct "
                "or drop the row"
            ) from error
        except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
            values = (row.get(column) for row in rows)
            array = pyarrow.array([value if isinstance(value, str | None) else json.dumps(value) for value in values])
        table[column] = array
    return Dataset(pyarrow.table(table))


def check_columns(found: Collection[str], columns: Sequence[str], label: str, *, remedy: str) -> None:
    """Refuse, by a ValueError with the names that are `found`, rows without one of the columns."""
    for column in columns:
        if column not in found:
            known = join_some(map(short_repr, found))
            raise ValueError(f"{label} lacks the column {short_repr(column)}; {remedy}; it has {known}")


def flattened_questions(articles: list[dict[str, Any]], label: str) -> Iterator[dict[str, Any]]:
    """Rows of SQuAD's official files, which nest questions in paragraphs in articles; `id` and answers may lack."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    row = {"question": question["question"], "context": paragraph["context"]}
                    answers = question.get("answers", [] if question.get("is_impossible") else None)
                    if answers is not None:
                        row["answers"] = {name: [answer[name] for answer in answers] for name in _ANSWER_COLUMNS}
                    yield {name: question[name] for name in ("id",) if name in question} | row
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{label} is no SQuAD file: {error}; expected data, paragraphs, qas, question") from error
