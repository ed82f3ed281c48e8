"""Rows with all their columns, from files as people have them, folders and Hub data sets; questions of SQuAD, too.

data/sources.py finds the files and reads parquet, Arrow and text; CSV and JSON are read here, as they are written.
"""

import glob
import json
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset
from datasets.exceptions import DatasetsError

from ..data.delimited import SEPARATORS, check_cells, csv_settings, header_of
from ..data.sources import TAGGED_WORDS, concatenated, local_files, read_source
from ..data.triplets import by_lower_name
from ..files.caches import full_disk
from ..files.messages import first_line, join_some, short_repr
from ..files.strict_json import read_json_rows
from .columns import LABEL_COLUMNS, class_names, is_missing

logger = logging.getLogger(__name__)
_JSON = (".json", ".jsonl")
_ANSWER_COLUMNS = ("text", "answer_start")
WORDS, TAGS = "tokens", "ner_tags"
_TAG = re.compile(r"O|[BIESLU]-\S+")
_LOOKED_AT, _MOST_COLUMNS = 200, 4
_STEM = 3  # letters
_SENTENCE = ("sentence #", "sentence", "sentence_id", "sentence_number", "sent_id", "sent", "sentence_idx")
_WORD = ("word", "token", "words", "tokens", "form")
_TAG_NAMES = ("tag", "ner_tag", "ner", "label", "entity", "tags", "ner_tags", "labels")


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
    _warn_of_other_labels(parts, argument)
    try:
        rows = grouped(concatenated(parts))
    except (ValueError, pyarrow.ArrowException) as error:
        which = _other_types(parts) or first_line(error)[:200]
        raise ValueError(
            f"{argument}={short_repr(list(sources))} have columns of other types ({which}); make them alike"
        ) from error
    if not len(rows):
        columns = join_some(map(repr, rows.column_names))
        raise ValueError(
            f"{argument}={join_some(map(repr, sources))} has the columns {columns}, but no rows; add some"
        )
    return rows


def _other_types(parts: list[Dataset]) -> str:
    """The first column whose type differs between data sets, with both types; empty where none does."""
    types: dict[str, str] = {}
    for part in parts:
        for name, feature in part.features.items():
            kind = str(getattr(feature, "dtype", feature)).removeprefix("large_")  # strings are read together
            if kind != "null" and (other := types.setdefault(name, kind)) != kind:
                return f"{name!r}: {short_repr(other)} and {short_repr(kind)}"
    return ""


def _warn_of_other_labels(parts: Sequence[Dataset], argument: str) -> None:
    """Warn of sources that have their labels in different columns: of all but one no row would have any."""
    found = [{name for name in part.column_names if name.lower() in LABEL_COLUMNS} for part in parts]
    if found and all(found) and not set.intersection(*found):
        names = join_some(map(repr, sorted(set.union(*found))))
        logger.warning("%s: sources have labels in different columns, %s; give them one name", argument, names)


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
        except UnicodeEncodeError as error:  # half of a pair that stands for one character
            raise ValueError(f"{label} is unreadable: column {column!r}: {error}; correct or drop the row") from error
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


# A word and its tag a line, or a row


def is_conll(file: Path) -> bool:
    """Whether a text file has a word and its tag a line: equally many columns in all lines, the last of tags."""
    if file.suffix.lower() in TAGGED_WORDS:
        return True
    if file.suffix.lower() != ".txt":
        return False
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        lines = [_cells(line) for _, line in zip(range(_LOOKED_AT), opened, strict=False)]
    words = [cells for cells in lines if cells and not _is_mark(cells)]
    widths = {len(cells) for cells in words}
    return len(widths) == 1 and 2 <= widths.pop() <= _MOST_COLUMNS and all(_TAG.fullmatch(one[-1]) for one in words)


def read_conll(file: Path, label: str) -> Dataset:
    """Read rows of `tokens` and `ner_tags`: the first column and the last, or those behind the number of a word.

    Raises:
        ValueError: a line with another number of columns than the first, or no word.
    """
    sentences: list[list[list[str]]] = [[]]
    with file.open(encoding="utf-8-sig", errors="replace") as opened:
        for number, line in enumerate(opened, 1):
            cells = _cells(line)
            if not cells:
                sentences.append([])
            elif not _is_mark(cells):
                first = next((one[0] for one in sentences if one), cells)
                if len(cells) != len(first) or len(cells) < 2:
                    raise ValueError(
                        f"{label}: line {number:,} of {file.name} has {len(cells)} columns, "
                        f"{short_repr(line.strip())}; expected {max(len(first), 2)}, a word and its tag with a tab or "
                        "blank between"
                    )
                sentences[-1].append(cells)
    filled = [one for one in sentences if one]
    if not filled:
        raise ValueError(f"{label}: {file.name} has no words; expected a word and its tag a line")
    # some files number the words of a sentence in their first column
    is_numbered = all(
        [cells[0] for cells in one] == [str(place) for place in range(1, len(one) + 1)] for one in filled
    )
    word, tag = (1, 2) if is_numbered and len(filled[0][0]) > 2 else (0, -1)
    columns = {
        name: [[cells[place] for cells in one] for one in filled] for name, place in ((WORDS, word), (TAGS, tag))
    }
    return Dataset.from_dict(columns)


def _cells(line: str) -> list[str]:
    # a word may be a blank of another kind
    bare = line.strip(" \t\r\n") if line.strip() else ""
    return bare.split("\t") if "\t" in bare else [*filter(None, bare.split(" "))]


def _is_mark(cells: Sequence[str]) -> bool:
    """Whether a line parts documents or is a comment."""
    return cells[0].startswith("-DOCSTART-") or (cells[0] == "#" and not _TAG.fullmatch(cells[-1]))


def grouped(rows: Dataset) -> Dataset:
    """Join rows of a word each to rows of sentences, where columns of a sentence, a word and a tag have usual names.

    A sentence goes on where its cell is that of the row before or empty, as spreadsheets have it. Its cell is a
    number, a name, or the sentence, of which each word has a row.
    """
    known = by_lower_name(rows.column_names)
    columns = [
        next((known[name] for name in names if name in known), None) for names in (_SENTENCE, _WORD, _TAG_NAMES)
    ]
    if None in columns or any(isinstance(cell, list) for name in columns for cell in rows[:1][name]):
        return rows
    sentence, word, tag = (rows[name][:] for name in columns)
    starts = list(_numbered(sentence))
    sentences = [list(places) for _, places in groupby(range(len(starts)), starts.__getitem__)]
    if len(sentences) == len(starts):
        return rows  # a row a sentence
    if 2 * sum(len(str(cell).split()) > 1 for cell in word) > len(word):
        return rows  # not of single words: lists, as files of words have them
    # sentences that hold more words than those of their rows: the rows are of single words in their context
    cells = [str(sentence[members[0]]) for members in sentences]
    num_longer = 0
    for cell, members in zip(cells, sentences, strict=True):
        # a word may be written otherwise there, `Run` for `running`; a name holds none of its words
        found = sum(str(word[place]).casefold()[:_STEM] in cell.casefold() for place in members)
        num_longer += len(cell.split()) > len(members) and 2 * found > len(members)
    if 2 * num_longer > len(sentences):
        return rows
    names = class_names(rows.features[columns[2]])
    # a word may have no tag; numbers of a feature are names
    tags = [None if is_missing(one) or (names and one < 0) else str(names[one] if names else one) for one in tag]
    table: dict[str, list[Any]] = {WORDS: [], TAGS: []}
    for members in sentences:
        table[WORDS].append(["" if word[place] is None else str(word[place]) for place in members])
        table[TAGS].append([tags[place] for place in members])
    return Dataset.from_dict(table)


def _numbered(cells: Iterable[Any]) -> Iterator[int]:
    """Number sentences: a new one begins where a cell is neither empty nor that of the row before."""
    number, last = -1, None
    for cell in cells:
        if cell not in (None, "", last) or number < 0:
            number, last = number + 1, cell
        yield number
