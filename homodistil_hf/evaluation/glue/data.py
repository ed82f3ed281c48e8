"""The nine GLUE tasks: their columns of text, their labels, the names of their metrics; loads and checks their rows.

Rows come from the Hub or from a folder of parquet files with the Hub's column names. Test rows have no labels and are
never read.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ...files.messages import nearest_name, short_repr
from ..task_data import PART_SUFFIX, TaskData, from_hub

HUB_NAME = "nyu-mll/glue"
_DEV_SPLITS = ("validation", "validation_matched", "validation_mismatched")


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
        dev = _DEV_SPLITS[1:] if name == "mnli" else _DEV_SPLITS[:1]
        splits, data_name = from_hub(name, HUB_NAME, ("train", *dev), name), name
    else:
        splits, data_name = _from_folder(data_folder(name, data_dir))
    for split, rows in splits.items():
        _check_rows(rows, described, f"task={name!r}: {split} of {data_dir or HUB_NAME}")
    train = splits.pop("train")
    return TaskData(name, data_name, train, splits, _digest(described, [train, *splits.values()]))


def encode(rows: Dataset, task: GlueTask, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Tokenize rows, unpadded, with `labels` (int64; float32 for a regression) and `length` in tokens."""
    texts = [rows[column][:] for column in task.text_columns]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    convert = float if task.num_labels == 1 else int
    return Dataset.from_dict(
        {**encoded, "labels": list(map(convert, rows["label"][:])), "length": list(map(len, encoded["input_ids"]))}
    )


def _from_folder(folder: Path) -> tuple[dict[str, Dataset], str]:
    dev = [split for split in _DEV_SPLITS if (folder / f"{split}.parquet").is_file()]
    # A copy of the matched rows under the plain name would be measured twice.
    dev = [split for split in dev if split != "validation" or len(dev) == 1]
    if not (folder / "train.parquet").is_file() or not dev:
        raise ValueError(f"folder={str(folder)!r} lacks train.parquet or validation.parquet; expected both")
    return {split: _read(folder / f"{split}.parquet") for split in ("train", *dev)}, folder.name


def _read(path: Path) -> Dataset:
    try:
        return Dataset(pyarrow.parquet.read_table(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"file={str(path)!r} is no readable parquet ({error}); copy it again") from error


def _check_rows(rows: Dataset, task: GlueTask, label: str) -> None:
    needed = [*task.text_columns, "label"]
    if missing := [column for column in needed if column not in rows.column_names]:
        raise ValueError(f"{label} lacks the column {missing[0]!r}; expected {', '.join(needed)}")
    if len(rows) == 0:
        raise ValueError(f"{label} has 0 rows; expected at least one")
    labels = np.asarray(rows["label"][:], dtype=np.float64)
    if task.num_labels == 1:
        valid, expected = (labels >= 0) & (labels <= 5), "numbers from 0 to 5"
    else:
        valid, expected = np.isin(labels, range(task.num_labels)), f"0 … {task.num_labels - 1}"
    if not valid.all():
        raise ValueError(f"{label} has the label {labels[~valid][0]:g}; expected {expected} (test rows have none)")


def _digest(task: GlueTask, splits: Sequence[Dataset]) -> str:
    digest = hashlib.sha256()
    for rows in splits:
        columns: list[list[Any]] = [rows[column][:] for column in (*task.text_columns, "label")]
        digest.update(json.dumps(columns).encode("utf-8"))
    return digest.hexdigest()
