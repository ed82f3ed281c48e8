"""Targets of the fuzzer that know the answer: what is read equals what was given, or it is refused in words.

fuzz_targets.py lists them beside those that damage valid input.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.reliability import fuzz_mutations as damage
from benchmarks.reliability import fuzz_samples as samples
from homodistil_hf import load_text
from homodistil_hf.evaluation.fine_tuning import OwnTaskSettings, encoded_rows, own_rows
from homodistil_hf.tasks.kinds import CLASSES, LABELS
from homodistil_hf.tasks.reading import load_rows
from homodistil_hf.tasks.tags import marked_texts

SCRIPTS = (
    *(
        "Zoë",
        "e\u0301te\u0301",
        "北京大学",
        "東京タワー",
        "กรุงเทพ",
        "القاهرة",
        "مُحَمَّد",
        "दिल्ली",
        "서울",
        "Αθήνα",
        "Москва",
    ),
    *("תל־אביב", "10km", "👩‍👩‍👧", "🇩🇪", "😀", "ﬁne", "İstanbul", "don't"),
)
_CELLS = (
    "",
    "w7",
    " ",
    '"',
    '""',
    ",",
    ";",
    "\t",
    "'",
    "null",
    "NA",
    "007",
    "#",
    "\\",
    "\u2028",
    "\xa0",
    "a b",
    *SCRIPTS,
)


def compare(read: Any, *given: Any) -> None:
    """Raise what counts as a failure where something else was read than any of what may have been given."""
    if read not in given:
        raise RuntimeError(f"read {str(read)[:300]}, given {str(given[0])[:300]}")


def tables(folder: Path, draw: Random) -> None:
    """CSV and TSV of Python's writer, or joined without quotes; some with a stray separator or quote."""
    file = damage.emptied(folder / "data") / draw.choice(("a.csv", "a.csv", "a.tsv"))
    separator = "\t" if file.suffix == ".tsv" else draw.choice((",", ",", ";"))
    header = ["text", "label", "more"][: draw.choice((2, 2, 3))]
    with_lines = draw.random() < 0.3
    rows = [[_cell(draw, with_lines) for _ in header] for _ in range(draw.randrange(1, 7))]
    end, is_plain = draw.choice(("\n", "\r\n")), separator == "\t" and draw.random() < 0.5
    if is_plain:
        rows = [[cell.replace("\t", " ").replace("\n", " ") for cell in row] for row in rows]
        content = end.join(separator.join(row) for row in [header, *rows])
    else:
        how = draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        content = _written([header, *rows], separator, how, end)
    # two readings: by quotes, and in TSV also with quotes as letters
    is_damaged = draw.random() < 0.5
    if is_damaged:
        place = draw.randrange(content.index(end) + 1, len(content) + 1)  # behind the header
        content = content[:place] + draw.choice((separator, '"')) + content[place:]
    file.write_bytes(draw.choice((b"", b"\xef\xbb\xbf")) + content.encode())
    readings = [rows] if not is_damaged and not is_plain else []
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE)[: 2 if separator == "\t" else 1]:
        found = list(csv.reader(io.StringIO(content, newline=""), delimiter=separator, quoting=quoting))[1:]
        readings.append(
            [(row + [""] * len(header))[: len(header)] for row in found if "".join(row).strip(" ") or len(row) > 1]
        )
    if draw.random() < 0.5:
        texts = load_text(file, text_column="text")["text"][:]
        compare([text or "" for text in texts], *([row[0] for row in rows] for rows in readings))
        return
    table = load_rows([str(file)])
    # a header keeps its quotes where they are letters
    compare([name.strip('"') for name in table.column_names], header)
    compare(list(map(list, zip(*(table[name][:] for name in table.column_names), strict=True))), *readings)


def _cell(draw: Random, with_lines: bool) -> str:
    parts = [draw.choice(_CELLS) for _ in range(draw.choice((1, 1, 2, 3)))]
    return draw.choice(("", " ", "\n" if with_lines else "")).join(parts)


def _written(rows: Sequence[Sequence[str]], separator: str, quoting: Any, end: str = "\n") -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, quoting=quoting, lineterminator=end).writerows(rows)
    return text.getvalue()


def word_lines(folder: Path, draw: Random) -> None:
    """A word and its tag a line, in two to four columns; some files lack or double a cell."""
    file = damage.emptied(folder / "data") / f"a{draw.choice(('.txt', '.conll', '.bio', '.iob2'))}"
    separator, num_more = draw.choice(("\t", " ", "  ")), draw.randrange(3)
    words = ("w7", "#", '"', ",", "-", "O", "B-X", *(word for word in SCRIPTS if " " not in word))
    sentences = [
        [(draw.choice(words), draw.choice(("O", "B-X", "I-X", "B-Y"))) for _ in range(draw.randrange(1, 6))]
        for _ in range(draw.randrange(1, 5))
    ]
    lines = []
    for sentence in sentences:
        if draw.random() < 0.1:
            lines += [separator.join(["-DOCSTART-", *["-X-"] * num_more, "O"]), ""]
        lines += [separator.join((word, *["NN"] * num_more, tag)) for word, tag in sentence]
        lines.append(draw.choice(("", "", " ", "\t")))
    is_damaged = draw.random() < 0.3
    if is_damaged:
        place = draw.choice([number for number, line in enumerate(lines) if line.strip()])
        first, _, rest = lines[place].partition(separator)
        lines[place] = draw.choice((first, f"{first}{separator}{first}{separator}{rest}"))
    file.write_bytes(draw.choice(("\n", "\r\n")).join(lines).encode(draw.choice(("utf-8", "utf-8-sig"))))
    table = load_rows([str(file)])
    if is_damaged and table.column_names == ["text"]:
        return compare(table["text"][:], [line.strip() for line in lines if line.strip()], table["text"][:])
    read = [list(zip(*row, strict=True)) for row in zip(table["tokens"][:], table["ner_tags"][:], strict=True)]
    if not is_damaged:
        compare(read, sentences)
    return None


@cache
def _byte_tokenizer() -> PreTrainedTokenizerFast:
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="!")


def spans(folder: Path, draw: Random) -> None:
    """Texts in many scripts: words are tagged within spans and nowhere else, also where UTF-16 counted the offsets."""
    texts, cells, expected = [], [], []
    for _ in range(draw.randrange(1, 4)):
        text, row, places = "", [], []
        for _ in range(draw.randrange(1, 7)):
            piece, start = draw.choice(SCRIPTS), len(text)
            text += piece
            if draw.random() < 0.5:
                places.append((start, len(text)))
                first, last = places[-1]
                if is_wide := draw.random() < 0.3:
                    first, last = (len(text[:place].encode("utf-16-le")) // 2 for place in places[-1])
                span = {"start": first, "end": last, "label": draw.choice("XY")}
                row.append(span | ({"text": piece} if is_wide or draw.random() < 0.3 else {}))
            text += draw.choice(("", " ", " ", ", ", "\u3000"))
        texts.append(text)
        cells.append(row)
        expected.append(places)
    tokenizer: Any = draw.choice((samples.tiny_tokenizer, _byte_tokenizer))()
    marked = marked_texts(texts, cells, ["O", "B-X", "I-X", "B-Y", "I-Y"], tokenizer, "rows")
    for one, row, places in zip(marked, cells, expected, strict=True):
        tagged = [place for place, tag in zip(one.words, one.tags or (), strict=True) if tag != "O"]
        encoded = tokenizer(one.text, add_special_tokens=False, return_offsets_mapping=True)
        ends = {last - 1 for first, last in encoded["offset_mapping"] if first < last}
        if any("text" in span for span in row):
            # a text that stands twice may be meant at either place
            covered = {at for first, last in tagged for at in range(first, last)}
            allowed = {
                at
                for span, (first, last) in zip(row, places, strict=True)
                for at in _places(one.text, one.text[first:last])
            }
            compare(covered <= allowed, True)
            continue
        for first, last in places:
            within = [place for place in tagged if first <= place[0] and place[1] <= last]
            # a warning tells of spans that no token ends in
            if ends & {*range(first, last)} and not within:
                raise RuntimeError(f"no word of {one.text!r} has the tag of {one.text[first:last]!r}")
        outside = [
            place for place in tagged if not any(first <= place[0] and place[1] <= last for first, last in places)
        ]
        compare([one.text[first:last] for first, last in outside], [])


def _places(text: str, part: str) -> set[int]:
    starts = [start for start in range(len(text)) if text.startswith(part, start)]
    return {at for start in starts for at in range(start, start + len(part))}


_NAMES = ("a", "b", "US", "us", "001", "1", "yes, often", "don't", "x|y", "non", "10%", "北京", "é")
_LISTS = (
    json.dumps,
    repr,
    lambda names: repr(tuple(names)),
    lambda names: repr(set(names)) if names else "[]",
    ",".join,
    lambda names: json.dumps({"choices": list(names)}),
)


def label_cells(folder: Path, draw: Random) -> None:
    """Labels as people write them: names, lists in every notation, numbers, decimal commas, marks beside nothing."""
    file, kind = damage.emptied(folder / "data") / draw.choice(("a.csv", "a.jsonl")), draw.randrange(4)
    names, num_rows = draw.sample(_NAMES, draw.choice((2, 3))), draw.randrange(16, 24)
    columns: dict[str, Sequence[Any]] = {"label": [draw.choice(names) for _ in range(num_rows)]}
    given: list[Any] = [{cell} for cell in columns["label"]]
    if kind == 1:
        lists = [draw.sample(names, draw.randrange(1, len(names) + 1)) for _ in range(num_rows)]
        # names that hold a separator themselves can't stand between separators
        notations = _LISTS if not {*",|"} & {*"".join(names)} else [one for one in _LISTS if one != ",".join]
        write = draw.choice(notations) if file.suffix == ".csv" else list
        columns, given = {"label": [write(row) for row in lists]}, [set(row) for row in lists]
    elif kind == 2:
        numbers = [round(draw.uniform(-9, 9), 2) for _ in range(num_rows)]
        mark = draw.choice((".", ".", ","))
        columns, given = {"label": [str(number).replace(".", mark) for number in numbers]}, numbers
    elif kind == 3:
        mark = draw.choice(("x", "1", "X", "true", "✓"))
        marks = [[draw.choice((mark, "")) for _ in range(num_rows)] for _ in "ab"]
        columns = dict(zip("ab", marks, strict=True))
        given = [{name for name, cell in zip("ab", row, strict=True) if cell} for row in zip(*marks, strict=True)]
    texts = [f"w{number + 5}" for number in range(num_rows)]
    rows = [dict(zip(("text", *columns), cells, strict=True)) for cells in zip(texts, *columns.values(), strict=True)]
    content = _written([[*rows[0]], *([*row.values()] for row in rows)], ",", csv.QUOTE_MINIMAL)
    file.write_text(
        content if file.suffix == ".csv" else "\n".join(map(json.dumps, rows)), encoding="utf-8", newline=""
    )
    data = {"model": "any", "train_data": str(file), "eval_data": str(file), "output_dir": "any"}
    settings = OwnTaskSettings(**data, label_column=",".join(columns))
    task, *parts = own_rows(settings, samples.tiny_tokenizer(), lambda line: None)
    for part in parts:
        numbers = encoded_rows(task, part, samples.tiny_tokenizer(), 16)["labels"][:]
        if task.kind == CLASSES:
            read: list[Any] = [{task.names[number]} for number in numbers]
        elif task.kind == LABELS:
            read = [{name for name, share in zip(task.names, row, strict=True) if share} for row in numbers]
        else:
            read = [round(number if isinstance(number, float) else number[0], 2) for number in numbers]
        compare(read, given, [{str(cell)} for cell in columns.get("label", ())], [_number(cell) for cell in given])


def _number(cell: Any) -> Any:
    return (
        float(next(iter(cell))) if isinstance(cell, set) and len(cell) == 1 and next(iter(cell)).isdecimal() else cell
    )


SECRET = "kept to itself"
_opened: list[str] = []


@contextmanager
def opening_nothing_of(elsewhere: Path, target: Path, output: Path) -> Iterator[None]:
    """Nothing is opened that only a record names, and no content of another folder is written or printed.

    A file that is a link itself may be read, as that of a model in the Hub's cache.
    """
    _watch()
    _opened.clear()
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        names = (str(elsewhere), str(target / "link") + os.sep)
        found = [name for name in _opened if os.path.abspath(name).startswith(names)]
        files = [file for place in (target, output) for file in place.rglob("*") if file.is_file()]
        found += [str(file) for file in files if not _is_linked(file, target) and SECRET.encode() in file.read_bytes()]
        if found or SECRET in printed.getvalue():
            raise RuntimeError(f"opened or given away: {found[:3] or 'printed'}")


def _is_linked(file: Path, folder: Path) -> bool:
    return any(path.is_symlink() for path in (file, *file.parents) if path.is_relative_to(folder))


@cache
def _watch() -> None:
    sys.addaudithook(lambda event, given: _opened.append(str(given[0])) if event == "open" else None)


def forge(target: Path, draw: Random) -> Path:
    """Put names that lead out of a folder into one of its records, or a link in the place of one of its files.

    Returns:
        The folder that they lead to.
    """
    elsewhere = damage.emptied(target.with_name("elsewhere"))
    for name in ("model.safetensors", "config.json", "a.bin"):
        (elsewhere / name).write_text(SECRET, encoding="utf-8")
    file = elsewhere / draw.choice(("a.bin", "config.json", "model.safetensors"))
    names = [
        str(file),
        os.path.relpath(file, target),
        f"x/../../elsewhere/{file.name}",
        str(elsewhere),
        "../elsewhere",
    ]
    names += [f"..\\elsewhere\\{file.name}", "link", f"link/{file.name}"]
    (target / "link").symlink_to(draw.choice((elsewhere, file)))
    records = [path for path in sorted(target.rglob("*.json")) if path.name in _RECORDS]
    if records and draw.random() < 0.8:
        record = draw.choice(records)
        values = json.loads(record.read_text(encoding="utf-8"))
        for _ in range(draw.choice((1, 2, 4))):
            holder, key = draw.choice(list(damage.places(values)) or [(values, "x")])
            name = draw.choice(names)
            if isinstance(holder, dict) and draw.random() < 0.5:
                holder[name] = holder.pop(key, None)
            else:
                holder[key] = draw.choice((name, [name], {"path": name, "file": name}))
        record.write_text(json.dumps(values), encoding="utf-8")
    if not records or draw.random() < 0.4:
        path = draw.choice([path for path in sorted(target.rglob("*")) if path.is_file() and not path.is_symlink()])
        path.unlink()
        path.symlink_to(file)
    return elsewhere


_RECORDS = (
    "facts.json",
    "results.json",
    "settings.json",
    "family.json",
    "manifest.json",
    "state.json",
    "run_state.json",
)
