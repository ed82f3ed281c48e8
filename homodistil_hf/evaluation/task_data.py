"""The labelled rows of one task, GLUE's and SQuAD's: finds, reads and checks them.

Rows come from the Hub or from local files with the Hub's columns: parquet, for SQuAD also JSON or the official nested
JSON. Test rows have no labels and are never read. glue.py and squad.py fine-tune and measure on them.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
from datasets import Dataset, Features, List, Value
from datasets.table import table_cast
from transformers import PreTrainedTokenizerBase

from ..files.hub_errors import HTTP_ERROR
from ..files.messages import first_line, nearest_name, short_repr
from ..files.strict_json import fits, read_json_rows
from ..tasks.reading import check_columns, flattened_questions, table_of

PART_SUFFIX = "_part"

_GLUE_ON_HUB = "nyu-mll/glue"
_GLUE_DEV_SPLITS = ("validation", "validation_matched", "validation_mismatched")

SQUAD_ON_HUB = {"squad": "rajpurkar/squad", "squad_v2": "rajpurkar/squad_v2"}
"""Task → data set on the Hub."""

SQUAD_COLUMNS = ("id", "context", "question", "answers")
"""Columns that a data set of questions needs; `answers` holds lists `text` and `answer_start`."""

_SQUAD_REMEDY = f"expected {', '.join(SQUAD_COLUMNS)}"
_SQUAD_SPLITS = {"train": ("train",), "validation": ("validation", "dev")}
_SQUAD_SUFFIXES = (".parquet", ".json", ".jsonl")
_SQUAD_FILES = "train.parquet and validation.parquet (or .json, .jsonl; dev for validation)"
_SQUAD_FEATURES = Features(
    {
        "id": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
    }
)


@dataclass(frozen=True)
class TaskData:
    """Labelled rows of one task.

    Args:
        task: name of its metric.
        name: name in results: the task's, with `_part` behind it if these rows are a part of its rows.
        train: training rows.
        dev: split → rows to measure on: `validation`; `validation_matched` and `validation_mismatched` for MNLI.
        sha256: digest of all rows.
        group_column: when rows are held out, rows with one value in this column stay together, such as the questions
            of one text. Default: every row stands for itself.
    """

    task: str
    name: str
    train: Dataset
    dev: dict[str, Dataset]
    sha256: str
    group_column: str | None = None


def from_hub(task: str, hub_name: str, splits: Sequence[str], *config: str) -> dict[str, Dataset]:
    """Load the splits of a task from the Hub; `config` names a configuration, if there is one."""
    try:
        return {split: datasets.load_dataset(hub_name, *config, split=split) for split in splits}
    except (OSError, RuntimeError, ValueError, HTTP_ERROR) as error:
        raise ValueError(
            f"task={task!r} can't be loaded from the Hub ({hub_name}: {first_line(error)[:300]}); check the "
            "connection, or name local files with --data_dir"
        ) from error


@dataclass(frozen=True)
class GlueTask:
    """One task: the Hub's name, one or two columns of text, classes, names of the Hub's metrics.

    `num_labels` is 1 for a similarity from 0 to 5, which is a regression.
    """

    name: str
    text_columns: tuple[str, ...]
    num_labels: int = 2
    metrics: tuple[str, ...] = ("accuracy",)


GLUE_TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask("cola", ("sentence",), metrics=("matthews_correlation",)),
        GlueTask("sst2", ("sentence",)),
        GlueTask("mrpc", ("sentence1", "sentence2"), metrics=("accuracy", "f1")),
        GlueTask("stsb", ("sentence1", "sentence2"), num_labels=1, metrics=("pearson", "spearmanr")),
        GlueTask("qqp", ("question1", "question2"), metrics=("accuracy", "f1")),
        GlueTask("mnli", ("premise", "hypothesis"), num_labels=3),
        GlueTask("qnli", ("question", "sentence")),
        GlueTask("rte", ("sentence1", "sentence2")),
        GlueTask("wnli", ("sentence1", "sentence2")),
    )
}


def check_tasks(names: str | Sequence[str]) -> list[str]:
    """Check names of GLUE tasks and drop repeated ones; `"glue"` stands for all nine."""
    given = [names] if isinstance(names, str) else list(names)
    for name in given:
        if name not in GLUE_TASKS and name != "glue":
            raise ValueError(
                f"task={short_repr(name)} is unknown; nearest valid: {nearest_name(name, [*GLUE_TASKS, 'glue'])!r}"
            )
    expanded = [task for name in given for task in (GLUE_TASKS if name == "glue" else [name])]
    return list(dict.fromkeys(expanded))


def data_folder(task: str, data_dir: str | Path) -> Path:
    """Find the folder of a task, or of a part of it, in `data_dir` or in its folder `glue`."""
    if not Path(data_dir).is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; expected one with e.g. rte/train.parquet")
    folders = [Path(data_dir), Path(data_dir, "glue")]
    for folder in folders:
        for name in (task, task + PART_SUFFIX):
            if (folder / name).is_dir():
                return folder / name
    known = [name + suffix for name in GLUE_TASKS for suffix in ("", PART_SUFFIX)]
    present = sorted(name for name in known for folder in folders if (folder / name).is_dir())
    raise ValueError(
        f"data_dir={str(data_dir)!r} has no folder {task} and no {task}{PART_SUFFIX}, but "
        f"{', '.join(present) or 'none of any task'}; add it, or leave that task out"
    )


def load_glue(task: str, data_dir: str | Path | None = None) -> TaskData:
    """Load and check the rows of a task.

    Args:
        task: name of a GLUE task.
        data_dir: folder with one folder a task, each with `train.parquet` and `validation.parquet` (MNLI also:
            `validation_matched.parquet`, `validation_mismatched.parquet`); default: the Hub's `nyu-mll/glue`.

    Raises:
        ValueError: unknown task, missing or unreadable rows, or labels that the task does not have.
    """
    (name,) = check_tasks([task])
    described = GLUE_TASKS[name]
    if data_dir is None:
        dev = _GLUE_DEV_SPLITS[1:] if name == "mnli" else _GLUE_DEV_SPLITS[:1]
        splits, data_name = from_hub(name, _GLUE_ON_HUB, ("train", *dev), name), name
    else:
        splits, data_name = _glue_in_folder(data_folder(name, data_dir))
    for split, rows in splits.items():
        _check_labels(rows, described, f"task={name!r}: {split} of {data_dir or _GLUE_ON_HUB}")
    train = splits.pop("train")
    return TaskData(name, data_name, train, splits, _glue_digest(described, [train, *splits.values()]))


def encode(rows: Dataset, task: GlueTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Tokenize rows, unpadded, with `labels` (int64; float32 for a regression) and `length` in tokens."""
    texts = [rows[column][:] for column in task.text_columns]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    convert = float if task.num_labels == 1 else int
    return Dataset.from_dict(
        {**encoded, "labels": list(map(convert, rows["label"][:])), "length": list(map(len, encoded["input_ids"]))}
    )


def _glue_in_folder(folder: Path) -> tuple[dict[str, Dataset], str]:
    dev = [split for split in _GLUE_DEV_SPLITS if (folder / f"{split}.parquet").is_file()]
    # A copy of the matched rows under the plain name would be measured twice.
    dev = [split for split in dev if split != "validation" or len(dev) == 1]
    if not (folder / "train.parquet").is_file() or not dev:
        raise ValueError(f"folder={str(folder)!r} lacks train.parquet or validation.parquet; expected both")
    return {split: _read_rows(folder / f"{split}.parquet") for split in ("train", *dev)}, folder.name


def _read_rows(path: Path) -> Dataset:
    try:
        return Dataset(pyarrow.parquet.read_table(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"file={str(path)!r} is no readable parquet ({error}); copy it again") from error


def _check_labels(rows: Dataset, task: GlueTask, label: str) -> None:
    needed = (*task.text_columns, "label")
    check_columns(rows.column_names, needed, label, remedy=f"expected {', '.join(needed)}")
    if len(rows) == 0:
        raise ValueError(f"{label} has 0 rows; expected at least one")
    labels = np.asarray(rows["label"][:], dtype=np.float64)
    if task.num_labels == 1:
        valid, expected = (labels >= 0) & (labels <= 5), "numbers from 0 to 5"
    else:
        valid, expected = np.isin(labels, range(task.num_labels)), f"0 … {task.num_labels - 1}"
    if not valid.all():
        raise ValueError(f"{label} has the label {labels[~valid][0]:g}; expected {expected} (test rows have none)")


def _glue_digest(task: GlueTask, splits: Sequence[Dataset]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        columns: list[list[Any]] = [rows[column][:] for column in (*task.text_columns, "label")]
        digest.update(json.dumps(columns).encode("utf-8"))
    return digest.hexdigest()


def check_squad_task(task: str) -> None:
    """Check that a task is `"squad"` or `"squad_v2"`."""
    if task not in SQUAD_ON_HUB:
        raise ValueError(f"task={short_repr(task)} is unknown; nearest valid: {nearest_name(task, SQUAD_ON_HUB)!r}")


def load_squad(task: str, data_dir: str | Path | None = None) -> TaskData:
    """Load and check the questions of a task.

    Args:
        task: `"squad"` (v1.1) or `"squad_v2"`.
        data_dir: folder with a training and a development file, or with a folder `task` or `task_part` of such files.
            If it has only `squad_v2`, `squad` takes the questions that have an answer and counts as a part. Default:
            the Hub.

    Raises:
        ValueError: an unknown task, missing or unreadable rows, answers that are not at their `answer_start`.
    """
    check_squad_task(task)
    if data_dir is None:
        found = from_hub(task, SQUAD_ON_HUB[task], tuple(_SQUAD_SPLITS))
        name, splits = task, {split: rows.select_columns(list(SQUAD_COLUMNS)) for split, rows in found.items()}
    else:
        name, splits = _squad_in_folder(task, data_dir)
    for split, rows in splits.items():
        _check_questions(rows, task, f"task={task!r}: {split} of {data_dir or SQUAD_ON_HUB[task]}")
    sha256 = _squad_digest(splits.values())
    return TaskData(task, name, splits.pop("train"), splits, sha256, group_column="context")


def squad_files(task: str, data_dir: str | Path) -> dict[str, Path]:
    """Find a task's files, `train` and `validation`, without reading them; ValueError for none or several of one."""
    folder = _squad_folder(task, Path(data_dir))
    return {split: _squad_file(folder, words) for split, words in _SQUAD_SPLITS.items()}


def _squad_in_folder(task: str, data_dir: str | Path) -> tuple[str, dict[str, Dataset]]:
    files = squad_files(task, data_dir)
    folder = files["train"].parent
    splits = {split: _read_questions(path) for split, path in files.items()}
    is_other = task == "squad" and folder.name.startswith("squad_v2")
    if is_other:
        splits = {split: _answerable(rows) for split, rows in splits.items()}
    is_part = is_other or folder.name.endswith(PART_SUFFIX)
    return task + PART_SUFFIX * is_part, splits


def _squad_folder(task: str, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; expected one with {_SQUAD_FILES}")
    names = [task, task + PART_SUFFIX]
    if task == "squad":
        names += ["squad_v2", "squad_v2" + PART_SUFFIX]
    return next((data_dir / name for name in names if (data_dir / name).is_dir()), data_dir)


def _squad_file(folder: Path, words: tuple[str, ...]) -> Path:
    found = sorted(
        path for path in folder.iterdir() if path.suffix in _SQUAD_SUFFIXES and path.name.lower().startswith(words)
    )
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"data_dir={str(folder)!r} has {names} for {words[0]}; expected one file: {_SQUAD_FILES}")
    return found[0]


def read_questions(path: str | Path, *, argument: str) -> Dataset:
    """Read a file of questions, with or without answers; `argument` is its name in messages.

    Raises:
        ValueError: no such file, unreadable rows, or answers that are not at their `answer_start`.
    """
    file = Path(os.path.expanduser(path))
    label = f"{argument}={str(path)!r}"
    if file.suffix not in _SQUAD_SUFFIXES or not file.is_file():
        raise ValueError(f"{label} is no file of {', '.join(_SQUAD_SUFFIXES)}; name one with the columns of SQuAD")
    rows = _read_questions(file)
    _check_questions(rows, "squad_v2", label)
    return rows


def _read_questions(path: Path) -> Dataset:
    label = f"file={str(path)!r}"
    try:
        table = pyarrow.parquet.read_table(path) if path.suffix == ".parquet" else _json_table(path, label)
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{label} is unreadable ({error}); copy it again") from error
    check_columns(table.column_names, SQUAD_COLUMNS, label, remedy=_SQUAD_REMEDY)
    for column in SQUAD_COLUMNS:
        if table[column].null_count:
            raise ValueError(f"{label} has rows without {column!r}; expected empty lists where there is no answer")
    try:
        return Dataset(table_cast(table.select(list(SQUAD_COLUMNS)).combine_chunks(), _SQUAD_FEATURES.arrow_schema))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{label} has columns of other types ({error}); expected strings, and answers with the lists text and "
            "answer_start"
        ) from error


def _json_table(path: Path, label: str) -> pyarrow.Table:
    rows = read_json_rows(path, label)
    rows = list(flattened_questions(rows, label)) if "paragraphs" in rows[0] else rows
    return table_of(rows, SQUAD_COLUMNS, label, remedy=_SQUAD_REMEDY)


def _answerable(rows: Dataset) -> Dataset:
    return rows.select([index for index, answers in enumerate(rows["answers"][:]) if answers["text"]])


def _check_questions(rows: Dataset, task: str, label: str) -> None:
    if len(rows) == 0:
        raise ValueError(f"{label} has 0 questions; expected at least one")
    identity, count = Counter(rows["id"][:]).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{label} has id={identity!r} {count} times; expected one row a question")
    check_answers(rows, argument=label, need_answers=task == "squad")


def check_answers(rows: Iterable[Mapping[str, Any]], *, argument: str, need_answers: bool) -> None:
    """Check that each answer is at its `answer_start`; `argument` names the rows in messages."""
    for row in rows:
        label = f"{argument}: question id={row['id']!r}"
        if not fits(row["answers"], {"text": [str], "answer_start": [int]}):
            raise ValueError(
                f"{label} has answers={short_repr(row['answers'])}; expected the lists text and answer_start, without "
                "empty entries"
            )
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        if need_answers and not texts:
            raise ValueError(f"{label} has no answer; take the task squad_v2, or drop such rows")
        if len(texts) != len(starts):
            raise ValueError(f"{label} has {len(texts)} answers and {len(starts)} answer_start; expected one for each")
        for text, start in zip(texts, starts, strict=True):
            if row["context"][start : start + len(text)] != text:
                found = row["context"][start : start + len(text)]
                raise ValueError(
                    f"{label} has answer_start={start}, where the context reads {found!r}, not {text!r}; "
                    "expected characters counted from 0"
                )


def _squad_digest(splits: Iterable[Dataset]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True).encode("utf-8"))
    return digest.hexdigest()
