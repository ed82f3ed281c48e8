"""Files and Hub data sets → data sets with all their columns: the files of a source are found, refused or read.

corpus.py takes texts from them, tasks/reading.py rows. Code that comes with a data set is never run.
"""

import codecs
import csv
import glob
import json
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from datasets import Features, Value
from datasets.exceptions import DatasetsError
from datasets.io.csv import CsvDatasetReader
from datasets.io.json import JsonDatasetReader
from datasets.io.parquet import ParquetDatasetReader
from datasets.io.text import TextDatasetReader
from datasets.packaged_modules.arrow.arrow import Arrow
from datasets.utils.extract import Extractor

from ..files.caches import full_disk
from ..files.folders import check_writable
from ..files.messages import join_some, short_repr
from ..files.strict_json import fits, parse_json
from .delimited import SEPARATORS, check_cells, csv_settings

logger = logging.getLogger(__name__)

TAGGED_WORDS = (".conll", ".bio", ".iob", ".iob2")
"""Endings of files with a word and its tag a line, which tasks/reading.py reads."""


class _ArrowDatasetReader(ParquetDatasetReader):
    """Reads files of `save_to_disk` as others are: by a copy in the cache, so that nothing is written beside them."""

    def __init__(self, path_or_paths: Any, **kwargs: Any):
        super().__init__(path_or_paths, **kwargs)
        self.builder = Arrow(cache_dir=self.cache_dir, data_files=path_or_paths, hash="arrow")


# The readers behind `datasets.load_dataset`, which would itself report every use to a server, also of local files.
_READERS: dict[str, Any] = {
    ".parquet": ParquetDatasetReader,
    ".arrow": _ArrowDatasetReader,
    ".json": JsonDatasetReader,
    ".jsonl": JsonDatasetReader,
    **dict.fromkeys(SEPARATORS, CsvDatasetReader),
    **dict.fromkeys((".txt", *TAGGED_WORDS), TextDatasetReader),
}
_READER_SETTINGS: dict[Any, dict[str, Any]] = {
    ParquetDatasetReader: {},
    _ArrowDatasetReader: {},
    # Not "utf-8": under its usual spelling the reader passes bytes on undecoded, errors included.
    JsonDatasetReader: {"encoding": "utf_8", "encoding_errors": "replace"},
    CsvDatasetReader: {"encoding_errors": "replace"},
    TextDatasetReader: {
        "sample_by": "paragraph",
        "encoding": "utf_8_sig",  # a byte order mark is no text
        "encoding_errors": "replace",
        "features": Features({"text": Value("string")}),
    },
}
_EXPECTED = ".parquet, .arrow, .json, .jsonl, .csv, .tsv or .txt"
_FILES_PROBLEM = (
    f"is empty or unreadable; expected {_EXPECTED} whose contents match the extension, with columns of the same types "
    "in all files of one folder or glob (others can be listed)"
)
_HUB_PROBLEM = (
    "is no local file and could not be loaded from the Hub; expected an existing path, or owner/name or "
    "owner/name:configuration of a data set, and a connection"
)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.+-]+)?")
_OTHER_FILE_SUFFIXES = {".gz", ".zip", ".zst", ".xz", ".bz2", ".md", ".html", ".xml", ".pdf"}
_OF_SAVED_SETS = {"dataset_info.json", "dataset_dict.json", "state.json"}  # beside the data of `save_to_disk`
_HIDDEN_FOLDERS = {"__MACOSX", "__pycache__"}
_HEAD_BYTES, _LINE_BYTES = 1 << 12, 1 << 20
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_SHARD = re.compile(r"([-_.](\d+|of|[0-9a-f]{8,}))+$|\d+$")  # train-00000-of-00002
_SPLIT_WORDS = {
    "validation": {"validation", "valid", "val", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
    "train": {"train", "training"},
}
"""Split → its words; of a name with several, those of held-out texts count."""


def local_files(source: str, split: str, label: str) -> list[Path]:
    """Return the files of a `source`; none if it is the name of a Hub data set."""
    if not source.strip():
        raise ValueError(f"{label} is empty; expected a file, folder, glob or Hub data set")
    path = Path(os.path.expanduser(source))  # pathlib's raises where there is no such user
    if path.is_dir():
        return _folder_files(path, split, label)
    files = [path] if path.is_file() else _globbed(path)
    files = [file for file in files if file.is_file()]
    is_path = source.startswith((".", "~", "/")) or path.suffix.lower() in _OTHER_FILE_SUFFIXES | set(_READERS)
    if not files and not is_path and _HUB_NAME.fullmatch(source):
        return []
    if not files:
        raise FileNotFoundError(
            f"{label} does not exist; expected a file, folder or glob of {_EXPECTED}, or a Hub data set such as "
            "Salesforce/wikitext:wikitext-103-raw-v1"
        )
    for file in files:
        if file.suffix.lower() not in _READERS:
            raise ValueError(
                f"{label}: {file.name} has the unknown extension {file.suffix!r}; convert it to {_EXPECTED}"
            )
    return _readable(files, label)


def _globbed(pattern: Path) -> list[Path]:
    """Return the files that match, each once; below `**`, links to folders are not followed: they may be circular."""
    start = next((index for index, part in enumerate(pattern.parts) if glob.has_magic(part)), None)
    if start is None:
        return []
    root, rest = Path(*pattern.parts[:start]), pattern.parts[start:]
    files = list(root.glob("/".join(rest if rest[-1] != "**" else (*rest, "*"))))
    return sorted(file for file in files if _is_hidden(rest) or not _is_hidden(file.relative_to(root).parts))


def _is_hidden(parts: Iterable[str]) -> bool:
    """Whether a part of a path hides what is below it: `.git`, `.ipynb_checkpoints`, `__MACOSX`."""
    return any(part.startswith(".") or part in _HIDDEN_FOLDERS for part in parts)


def _folder_files(folder: Path, split: str, label: str) -> list[Path]:
    """Return all readable files below a folder; those of one split, if any file is named after a split.

    Other files are named in a warning, but for texts about the folder itself (`.md`).
    """
    present = [file for file in folder.rglob("*") if file.is_file()]
    found = [file for file in present if file.suffix.lower() in _READERS]
    shown = (file for file in present if not _is_hidden(file.relative_to(folder).parts))
    others = sorted({file.name for file in shown if file.suffix.lower() not in {*_READERS, ".md"}})
    # records of `save_to_disk`, and what `map` leaves beside its data, are no text
    found = [file for file in found if file.name not in _OF_SAVED_SETS]
    found = [file for file in found if file.suffix != ".arrow" or not file.name.startswith(("cache-", "tmp"))]
    files = sorted(file for file in found if not _is_hidden(file.relative_to(folder).parts))
    if not files:
        holds = f", it holds {join_some(others)}" if others else ""
        raise ValueError(f"{label} is a folder without text; expected {_EXPECTED} below it{holds}")
    if others:
        logger.warning("%s: %s are not read; expected %s: convert them", label, join_some(others), _EXPECTED)
    split_of = _splits(files, folder)
    named = {name for name in split_of.values() if name}
    wanted = split.partition("[")[0]  # "train[:10%]" is a part of train
    if named and wanted not in named:
        raise ValueError(
            f"{label} has files for the splits {sorted(named)}, not for split={wanted!r}; name another one "
            f"(train_split, eval_split), files, or rename {join_some({file.name for file in files if split_of[file]})}"
        )
    if named and (others := [file.name for file in files if split_of[file] is None]):
        logger.warning(
            "%s: files named after no split are left out, as others are: %s", label, join_some(sorted(set(others)))
        )
    return _readable([file for file in files if not named or split_of[file] == wanted], label)


def _splits(files: list[Path], folder: Path) -> dict[Path, str | None]:
    """Return the split that each file is named after.

    A split's word among others (`wiki_validation.txt`) counts, so that texts to evaluate on are never trained on.
    Words of training alone (`train_data.jsonl`) count if all files have one: a text may be about training.
    """
    paths = {file: file.relative_to(folder).with_suffix("") for file in files}
    among_others = {
        # the outermost folder with such a word says what lies in it
        file: next(filter(None, (_split_of(re.split(r"[^a-z]+", part.lower())) for part in path.parts)), None)
        for file, path in paths.items()
    }
    splits = set(among_others.values())
    if splits - {None, "train"} or None not in splits:
        return among_others
    alone = {file: [_SHARD.sub("", part.lower()) for part in path.parts] for file, path in paths.items()}
    return {file: _split_of(words) for file, words in alone.items()}


def _split_of(words: Iterable[str]) -> str | None:
    present = set(words)
    return next((split for split, names in _SPLIT_WORDS.items() if present & names), None)


def _readable(files: list[Path], label: str) -> list[Path]:
    """Refuse archives and files of other encodings than UTF-8, and leave out empty ones."""
    for file in files:
        # the readers would unpack an archive, of any size and to any place
        if kind := Extractor.infer_extractor_format(file):
            raise ValueError(f"{label}: {file.name} is a {kind} archive under another name; unpack it first")
        if file.suffix.lower() not in (".parquet", ".arrow"):
            # bytes of UTF-16 or UTF-32 would be read as letters and NULs
            with file.open("rb") as opened:
                head = opened.read(_HEAD_BYTES)
            # wide characters begin with a mark, or more than one byte in four is NUL
            if head.startswith(_WIDE_MARKS) or head.count(0) * 4 > len(head):
                raise ValueError(
                    f"{label}: {file.name} is UTF-16, UTF-32 or no text; expected UTF-8: convert it, as by "
                    "`iconv -f UTF-16 -t UTF-8`"
                )
    filled = [file for file in files if file.stat().st_size > 0]
    if not filled:
        raise ValueError(f"{label} is an empty data set (0 bytes in {len(files)} files); expected text in them")
    return filled


def read_source(
    origin: list[Path] | str, *, split: str, streaming: bool, label: str, line_by_line: bool = False
) -> list[Any]:
    """Return data sets with all columns, one for each kind of file, each with at least one row.

    Where `line_by_line`, a row of a text file is a line that isn't empty.
    """
    cache = str(datasets.config.HF_DATASETS_CACHE)
    remedy = "name another folder with HOMODISTIL_CACHE, or with HF_DATASETS_CACHE for texts"
    check_writable(cache, f"{cache=}", remedy=remedy)
    files, num_lines = origin if isinstance(origin, list) else [], 0
    for file in files:
        if file.suffix.lower() in TAGGED_WORDS:
            raise ValueError(f"{label}: {file.name} holds words with tags, for a teacher that tags; expected texts")
        if file.suffix.lower() in SEPARATORS:
            num_lines += check_cells(file, label)
    try:
        if isinstance(origin, str):
            name, _, config = origin.partition(":")
            parts: list[Any] = [datasets.load_dataset(name, config or None, split=split, streaming=streaming)]
        else:
            parts = _read_files(origin, split, streaming, line_by_line)
        parts = [_without_views(part) for part in parts]
        # a stream raises its errors only when a row is read
        parts = [part for part in parts if any(True for _ in part.take(1))]
    except (DatasetsError, OSError, RuntimeError, StopIteration, TypeError, ValueError, csv.Error) as error:
        reason = error.__cause__ or error
        if full := full_disk(reason):
            raise full from error
        _check_json_lines(files, label)
        problem = _HUB_PROBLEM if isinstance(origin, str) else _FILES_PROBLEM
        raise ValueError(f"{label} {problem} ({type(reason).__name__}: {reason})") from error
    if not parts:
        raise ValueError(f"{label} is an empty data set (0 rows); expected at least one document")
    num_rows = sum(len(part) for part in parts if part.info.builder_name == "csv" and not streaming)
    if num_rows != num_lines and not streaming and "[" not in split:
        raise ValueError(f"{label} has {num_lines:,} rows in tables, but {num_rows:,} were read; check their quotes")
    return parts


def concatenated(parts: list[Any]) -> Any:
    """All rows of some data sets; kinds of string, which `datasets` does not mix, become the largest one."""
    if len({str(part.features) for part in parts}) > 1:
        string, large = Value("string"), Value("large_string")
        parts = [
            part.cast(Features({name: large if kind == string else kind for name, kind in part.features.items()}))
            for part in parts
        ]
    return datasets.concatenate_datasets(parts)


def _check_json_lines(files: list[Path], label: str) -> None:
    """Refuse, by a ValueError with its number, the first line of JSON lines that is none."""
    for file in files:
        if file.suffix.lower() == ".jsonl":
            with file.open(encoding="utf-8-sig", errors="replace") as opened:
                for number, line in enumerate(opened, 1):
                    where = f"{label}: line {number:,} of {file.name}"
                    if line.strip() and not isinstance(parse_json(line.strip(), where), dict):
                        raise ValueError(f"{where} is {short_repr(line.strip())}; expected an object a line")


def _without_views(part: Any) -> Any:
    """Texts that Arrow holds by their places, which `datasets` doesn't mix with others, as plain ones."""
    values = json.dumps(part.features.to_dict()) if part.features else ""
    plain = values.replace('"dtype": "string_view"', '"dtype": "large_string"')
    return part if plain == values else part.cast(Features.from_dict(json.loads(plain)))


def _read_files(files: list[Path], split: str, streaming: bool, line_by_line: bool) -> list[Any]:
    parts = []
    for reader, settings in _READER_SETTINGS.items():
        # `datasets` asks for the same columns in all files of a reader, and one reader a file would be slow
        groups: dict[Any, list[Path]] = {}
        for file in (file.absolute() for file in files if _READERS[file.suffix.lower()] is reader):
            # its reader fails on a table without groups of rows
            if file.suffix.lower() != ".parquet" or pyarrow.parquet.read_metadata(file).num_rows:
                groups.setdefault(_columns_of(file), []).append(file)
        for group in groups.values():
            # the readers take names for patterns
            paths = [glob.escape(str(file)) for file in group]
            names_of_splits = {split.partition("[")[0]: paths}
            options = {"split": split, "streaming": streaming, **settings, **csv_settings(group[0])}
            if line_by_line and reader is TextDatasetReader:
                options["sample_by"] = "line"
            try:
                part = reader(names_of_splits, **options).read()
            except ValueError as error:
                if "corresponds to no data" in str(error):  # files of no rows, which others may lie beside
                    continue
                raise
            if line_by_line and reader is TextDatasetReader:
                part = part.filter(lambda row: bool(row["text"].strip()))
            parts.append(part)
    return parts


def _written_features(schema: pyarrow.Schema) -> str:
    """What `datasets` wrote of a file's columns, with the names of classes, whose numbers are of this file alone."""
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"null"))
    is_known = fits(written, {"info": {"features": dict}})
    return json.dumps(written["info"]["features"] if is_known else None, sort_keys=True)


def _arrow_schema(file: Path) -> pyarrow.Schema:
    with pyarrow.memory_map(str(file)) as opened:
        try:
            return pyarrow.ipc.open_stream(opened).schema
        except pyarrow.ArrowInvalid:  # a file, not a stream
            return pyarrow.ipc.open_file(opened).schema


def _columns_of(file: Path) -> Any:
    """Return the columns of a file, for comparison; None where its reader finds them."""
    if file.suffix.lower() == ".parquet":
        schema = pyarrow.parquet.read_schema(file)
        return schema.remove_metadata(), _written_features(schema)
    if file.suffix.lower() == ".arrow":
        return _written_features(_arrow_schema(file))
    if file.suffix.lower() in SEPARATORS:
        return str(csv_settings(file))
    if _READERS[file.suffix.lower()] is JsonDatasetReader:
        with file.open("rb") as opened:
            first = opened.readline(_LINE_BYTES)
        try:
            row = json.loads(first.decode("utf-8-sig", "replace"))
        except ValueError:  # no JSON, or JSON of several lines
            return None
        row = row[0] if row and isinstance(row, list) else row
        return frozenset(row) if isinstance(row, dict) else None
    return None
