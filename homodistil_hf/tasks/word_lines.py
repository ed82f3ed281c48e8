"""Tags with a word a line → rows of words and tags: CoNLL text, and tables with a column that counts the sentences.

`reading.py` reads the files, `tags.py` the rows that come out of here.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.sources import TAGGED_WORDS
from ..files.messages import short_repr

WORDS, TAGS = "tokens", "ner_tags"
_TAG = re.compile(r"O|[BIESLU]-\S+")
_LOOKED_AT, _MOST_COLUMNS = 200, 4
_SENTENCE = ("sentence #", "sentence", "sentence_id", "sentence_number", "sent_id", "sent", "sentence_idx")
_WORD = ("word", "token", "words", "tokens", "form")
_TAG_NAMES = ("tag", "ner_tag", "ner", "label", "entity", "tags", "ner_tags", "labels")


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

    A sentence goes on where its cell is that of the row before or empty, as spreadsheets have it.
    """
    known = {name.lower(): name for name in rows.column_names}
    columns = [
        next((known[name] for name in names if name in known), None) for names in (_SENTENCE, _WORD, _TAG_NAMES)
    ]
    if None in columns or any(isinstance(cell, list) for name in columns for cell in rows[:1][name]):
        return rows
    sentence, word, tag = (rows[name][:] for name in columns)
    starts = list(_numbered(sentence))
    if len(set(starts)) == len(starts):
        return rows  # a row a sentence
    table: dict[str, list[Any]] = {WORDS: [], TAGS: []}
    for _, places in groupby(range(len(starts)), starts.__getitem__):
        members = list(places)
        table[WORDS].append([str(word[place]) for place in members])
        table[TAGS].append([str(tag[place]) for place in members])
    return Dataset.from_dict(table)


def _numbered(cells: Iterable[Any]) -> Iterator[int]:
    """Number sentences: a new one begins where a cell is neither empty nor that of the row before."""
    number, last = -1, None
    for cell in cells:
        if cell not in (None, "", last) or number < 0:
            number, last = number + 1, cell
        yield number
