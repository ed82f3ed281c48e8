"""Questions of SQuAD v1.1 and v2.0: finds, reads and checks their rows.

Rows come from the Hub, or from local files: parquet or JSON with the Hub's columns, or the official nested JSON.
`windows.py` cuts them into windows.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
from datasets import Dataset, Features, List, Value
from datasets.table import table_cast

from ...files.messages import nearest_name, short_repr
from ...files.strict_json import parse_json, read_json
from ..task_data import PART_SUFFIX, TaskData, from_hub
from .windows import SQUAD_COLUMNS, check_rows

HUB_NAMES = {"squad": "rajpurkar/squad", "squad_v2": "rajpurkar/squad_v2"}
"""Task → data set on the Hub."""

_SPLITS = {"train": ("train",), "validation": ("validation", "dev")}
_SUFFIXES = (".parquet", ".json", ".jsonl")
_EXPECTED = "train.parquet and validation.parquet (or .json, .jsonl; dev for validation)"
_FEATURES = Features(
    {
        "id": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
    }
)


def check_task(task: str) -> None:
    """Check that a task is `"squad"` or `"squad_v2"`."""
    if task not in HUB_NAMES:
        raise ValueError(f"task={short_repr(task)} is unknown; nearest valid: {nearest_name(task, list(HUB_NAMES))!r}")


def load_squad(task: str, data_dir: str | Path | None = None) -> TaskData:
    """Load and check the questions of a task.

    Args:
        task: `"squad"` (v1.1) or `"squad_v2"`.
        data_dir: folder with a training and a development file, or with a folder `task` or `task_part` of those. Where
            it has only `squad_v2`, `squad` takes the questions that have an answer and counts as a part. Default: the
            Hub.

    Raises:
        ValueError: an unknown task, missing or unreadable rows, answers that are not at their `answer_start`.
    """
    check_task(task)
    if data_dir is None:
        found = from_hub(task, HUB_NAMES[task], tuple(_SPLITS))
        name, splits = task, {split: rows.select_columns(list(SQUAD_COLUMNS)) for split, rows in found.items()}
    else:
        name, splits = _from_folder(task, data_dir)
    for split, rows in splits.items():
        _check(rows, task, f"task={task!r}: {split} of {data_dir or HUB_NAMES[task]}")
    sha256 = _digest(splits.values())
    return TaskData(task, name, splits.pop("train"), splits, sha256, group_column="context")


def data_files(task: str, data_dir: str | Path) -> dict[str, Path]:
    """Find a task's files, `train` and `validation`, without reading them; ValueError for none or several of one."""
    folder = _folder_of(task, Path(data_dir))
    return {split: _file_of(folder, words) for split, words in _SPLITS.items()}


def _from_folder(task: str, data_dir: str | Path) -> tuple[str, dict[str, Dataset]]:
    files = data_files(task, data_dir)
    folder = files["train"].parent
    splits = {split: _read(path) for split, path in files.items()}
    is_other = task == "squad" and folder.name.startswith("squad_v2")
    if is_other:
        splits = {split: _with_answers(rows) for split, rows in splits.items()}
    is_part = is_other or folder.name.endswith(PART_SUFFIX)
    return task + PART_SUFFIX * is_part, splits


def _folder_of(task: str, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; expected one with {_EXPECTED}")
    names = [task, task + PART_SUFFIX]
    if task == "squad":
        names += ["squad_v2", "squad_v2" + PART_SUFFIX]
    return next((data_dir / name for name in names if (data_dir / name).is_dir()), data_dir)


def _file_of(folder: Path, words: tuple[str, ...]) -> Path:
    found = sorted(
        path for path in folder.iterdir() if path.suffix in _SUFFIXES and path.name.lower().startswith(words)
    )
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"data_dir={str(folder)!r} has {names} for {words[0]}; expected one file: {_EXPECTED}")
    return found[0]


def read_questions(path: str | Path, *, argument: str) -> Dataset:
    """Read a file of questions, with or without answers; `argument` is its name in messages.

    Raises:
        ValueError: no such file, unreadable rows, or answers that are not at their `answer_start`.
    """
    file = Path(path).expanduser()
    label = f"{argument}={str(path)!r}"
    if file.suffix not in _SUFFIXES or not file.is_file():
        raise ValueError(f"{label} is no file of {', '.join(_SUFFIXES)}; name one with the columns of SQuAD")
    rows = _read(file)
    _check(rows, "squad_v2", label)
    return rows


def _read(path: Path) -> Dataset:
    label = f"file={str(path)!r}"
    try:
        table = pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else _json_table(path, label)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{label} is unreadable ({error}); copy it again") from error
    for column in SQUAD_COLUMNS:
        if column not in table.column_names:
            raise ValueError(f"{label} lacks the column {column!r}; expected {', '.join(SQUAD_COLUMNS)}")
        if table[column].null_count:
            raise ValueError(f"{label} has rows without {column!r}; expected empty lists where there is no answer")
    try:
        return Dataset(table_cast(table.select(list(SQUAD_COLUMNS)).combine_chunks(), _FEATURES.arrow_schema))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{label} has columns of other types ({error}); expected strings, and answers with the lists text and "
            "answer_start"
        ) from error


def _json_table(path: Path, label: str) -> pyarrow.Table:
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        return pyarrow.Table.from_pylist([parse_json(line, label) for line in lines if line.strip()])
    values = read_json(path, label)
    rows = values.get("data") if isinstance(values, dict) else values
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{label} holds {short_repr(values)}; expected a list of rows, or an object with such a list, data"
        )
    return pyarrow.Table.from_pylist(list(_flattened(rows, label)) if "paragraphs" in rows[0] else rows)


def _flattened(articles: list[dict[str, Any]], label: str) -> Iterator[dict[str, Any]]:
    """Rows of the official files, which nest questions in paragraphs in articles."""
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = {name: [answer[name] for answer in question["answers"]] for name in _ANSWER_COLUMNS}
                    row = {"id": question["id"], "question": question["question"], "context": paragraph["context"]}
                    yield row | {"answers": answers}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{label} is no SQuAD file: {error}; expected data, paragraphs, qas, answers") from error


_ANSWER_COLUMNS = ("text", "answer_start")


def _with_answers(rows: Dataset) -> Dataset:
    return rows.select([index for index, answers in enumerate(rows["answers"][:]) if answers["text"]])


def _check(rows: Dataset, task: str, label: str) -> None:
    if len(rows) == 0:
        raise ValueError(f"{label} has 0 questions; expected at least one")
    identity, count = Counter(rows["id"][:]).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{label} has id={identity!r} {count} times; expected one row a question")
    check_rows(rows, argument=label, need_answers=task == "squad")


def _digest(splits: Iterable[Dataset]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True).encode("utf-8"))
    return digest.hexdigest()
