"""The tasks of GLUE and SQuAD as a table, and their labelled rows: from the Hub, or from files with the Hub's columns.

Files are parquet, for SQuAD also JSON or the official nested JSON. Test rows have no labels and are never read.
`evaluation/task_runs.py` fine-tunes and measures on them.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet
from datasets import Dataset

from ..files.hub_errors import HTTP_ERROR
from ..files.messages import first_line, first_of, join_some, nearest_valid, short_repr
from .columns import Columns, ReadRows, class_names
from .encoding import question_rows
from .kinds import ANSWERS, CLASSES, VALUES
from .labels import finite_number
from .questions import QUESTION_FEATURES
from .reading import check_columns, read_json
from .rows_task import RowsTask

PART_SUFFIX = "_part"
_SQUAD_COLUMNS = tuple(QUESTION_FEATURES)
_SQUAD_SPLITS = {"train": ("train",), "validation": ("validation", "dev")}
_SQUAD_SUFFIXES = (".parquet", ".json", ".jsonl")
_SQUAD_FILES = "train.parquet and validation.parquet (or .json, .jsonl; dev for validation)"


@dataclass(frozen=True)
class BenchmarkTask(RowsTask):
    """A task of the table.

    Args:
        metrics: those that its score is the mean of.
        on_hub: its data set's name.
        words: names of its classes there, by number.
    """

    metrics: tuple[str, ...] = ("accuracy",)
    on_hub: tuple[str, ...] = ()
    dev_splits: tuple[str, ...] = ("validation",)
    words: tuple[str, ...] = ()


def _glue(name: str, *texts: str, words: tuple[str, ...] = (), **others: Any) -> BenchmarkTask:
    columns = Columns(CLASSES if words else VALUES, texts, ("label",))
    return BenchmarkTask(
        columns, tuple(map(str, range(len(words)))), on_hub=("nyu-mll/glue", name), words=words, **others
    )


_MATCHED = ("validation_matched", "validation_mismatched")
GLUE_TASKS: dict[str, BenchmarkTask] = {
    "cola": _glue("cola", "sentence", words=("unacceptable", "acceptable"), metrics=("matthews_correlation",)),
    "sst2": _glue("sst2", "sentence", words=("negative", "positive")),
    "mrpc": _glue(
        "mrpc", "sentence1", "sentence2", words=("not_equivalent", "equivalent"), metrics=("accuracy", "f1")
    ),
    # similarities from 0 to 5
    "stsb": _glue("stsb", "sentence1", "sentence2", metrics=("pearson", "spearmanr")),
    "qqp": _glue("qqp", "question1", "question2", words=("not_duplicate", "duplicate"), metrics=("accuracy", "f1")),
    "mnli": _glue(
        "mnli", "premise", "hypothesis", words=("entailment", "neutral", "contradiction"), dev_splits=_MATCHED
    ),
    "qnli": _glue("qnli", "question", "sentence", words=("entailment", "not_entailment")),
    "rte": _glue("rte", "sentence1", "sentence2", words=("entailment", "not_entailment")),
    "wnli": _glue("wnli", "sentence1", "sentence2", words=("not_entailment", "entailment")),
}
SQUAD_TASKS: dict[str, BenchmarkTask] = {
    name: BenchmarkTask(
        Columns(ANSWERS, ("question", "context"), ("answers",)), metrics=("f1",), on_hub=(f"rajpurkar/{name}",)
    )
    for name in ("squad", "squad_v2")
}
"""v1.1 and v2.0."""
BENCHMARK_TASKS = GLUE_TASKS | SQUAD_TASKS


@dataclass(frozen=True)
class TaskData:
    """Labelled rows of one task.

    Args:
        task: its name.
        name: name in results: the task's, with `_part` behind it if these rows are a part of its rows.
        train: training rows.
        dev: split → rows to measure on: `validation`; `validation_matched` and `validation_mismatched` for MNLI.
        sha256: digest of all rows.
    """

    task: str
    name: str
    train: Dataset
    dev: dict[str, Dataset]
    sha256: str


def check_tasks(names: str | Sequence[str], known: Iterable[str] = GLUE_TASKS) -> list[str]:
    """Check names of tasks and drop repeated ones; `"glue"` stands for all nine of GLUE."""
    given = [names] if isinstance(names, str) else names
    choices = [*known, *(["glue"] if GLUE_TASKS.keys() <= {*known} else [])]
    for name in given:
        check_task(name, choices)
    return list(dict.fromkeys(task for name in given for task in (GLUE_TASKS if name == "glue" else [name])))


def check_task(name: str, known: Iterable[str]) -> None:
    """Refuse, by a ValueError, a task that is none of the known ones."""
    if name not in known:
        raise ValueError(f"task={short_repr(name)} is unknown; {nearest_valid(name, known)}")


def _from_hub(task: str) -> dict[str, Dataset]:
    """Load the splits of a task from the Hub."""
    hub_name, *config = BENCHMARK_TASKS[task].on_hub
    splits = ("train", *BENCHMARK_TASKS[task].dev_splits)
    try:
        return {split: datasets.load_dataset(hub_name, *config, split=split) for split in splits}
    except (OSError, RuntimeError, ValueError, HTTP_ERROR) as error:
        raise ValueError(
            f"task={task!r} can't be loaded from the Hub ({hub_name}: {first_line(error)[:300]}); check the "
            "connection, or name local files with --data_dir"
        ) from error


def load_task(task: str, data_dir: str | Path | None = None) -> TaskData:
    """Load and check the rows of a task.

    Args:
        task: one of the table.
        data_dir: folder with the files of [`task_files`]. Of `squad`, if it has only `squad_v2`, the questions that
            have an answer are taken, which count as a part. Default: the Hub.

    Raises:
        ValueError: an unknown task, missing or unreadable rows, labels that the task does not have, or answers that
            are not at their `answer_start`.
    """
    check_task(task, BENCHMARK_TASKS)
    described, name, is_other = BENCHMARK_TASKS[task], task, False
    if data_dir is None:
        splits = _from_hub(task)
        sources = dict.fromkeys(splits, described.on_hub[0])
    else:
        files = task_files(task, data_dir)
        sources = {split: f"file={str(file)!r}" for split, file in files.items()}
        splits = {split: _rows_of(file, sources[split]) for split, file in files.items()}
        folder = files["train"].parent
        is_other = task == "squad" and folder.name.startswith("squad_v2")
        name += PART_SUFFIX * (is_other or folder.name.endswith(PART_SUFFIX))
    digest, columns = hashlib.sha256(), described.columns
    for split, rows in splits.items():
        label = f"{split} of {sources[split]}"
        if task in GLUE_TASKS:
            rows = _numbered(rows, described, label)
        else:
            rows = _questions(rows, label)
            answers = [row["text"] for row in rows["answers"]]
            if is_other:
                rows = rows.select([place for place, texts in enumerate(answers) if texts])
            elif task == "squad" and [] in answers:
                raise ValueError(
                    f"{label}: question id={rows['id'][answers.index([])]!r} has no answer; take the task squad_v2, "
                    "or drop such rows"
                )
        cells = [rows[column][:] for column in rows.column_names if column in ("id", *columns.texts, *columns.labels)]
        digest.update(json.dumps(cells).encode("utf-8"))
        splits[split] = rows
    return TaskData(task, name, splits.pop("train"), splits, digest.hexdigest())


def task_files(task: str, data_dir: str | Path) -> dict[str, Path]:
    """Find the files of a task, of its training rows and of those to measure on, without reading them.

    Args:
        task: one of the table.
        data_dir: folder with one folder a task of GLUE, each with `train.parquet` and `validation.parquet` (MNLI also:
            `validation_matched.parquet`, `validation_mismatched.parquet`); for SQuAD with a training and a development
            file, or with a folder `task` or `task_part` of such files.

    Raises:
        ValueError: no folder, no file for a split, or several.
    """
    if task in GLUE_TASKS:
        folder = data_folder(task, data_dir)
        # a copy of the matched rows under the plain name would be measured twice
        dev = [split for split in _MATCHED if (folder / f"{split}.parquet").is_file()] or ["validation"]
        files = {split: folder / f"{split}.parquet" for split in ("train", *dev)}
        if not all(file.is_file() for file in files.values()):
            raise ValueError(f"folder={str(folder)!r} lacks train.parquet or validation.parquet; expected both")
        return files
    if not Path(data_dir).is_dir():
        raise ValueError(f"data_dir={str(data_dir)!r} is no folder; expected one with {_SQUAD_FILES}")
    # of v2.0 the questions with an answer are a part of v1.1
    names = [name + suffix for name in dict.fromkeys((task, "squad_v2")) for suffix in ("", PART_SUFFIX)]
    inside = [Path(data_dir, name) for name in names]
    folder = next((path for path in inside if path.is_dir()), Path(data_dir))
    files = {}
    for split, words in _SQUAD_SPLITS.items():
        there = sorted(
            path for path in folder.iterdir() if path.suffix in _SQUAD_SUFFIXES and path.name.lower().startswith(words)
        )
        if len(there) != 1:
            given = join_some(path.name for path in there) or "none"
            raise ValueError(f"data_dir={str(folder)!r} has {given} for {split}; expected one file: {_SQUAD_FILES}")
        files[split] = there[0]
    return files


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


def _rows_of(path: Path, label: str) -> Dataset:
    if path.suffix != ".parquet":
        return read_json(path, label)
    try:
        return Dataset(pyarrow.parquet.read_table(path))
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{label} is unreadable ({first_line(error)[:200]}); copy it again") from error


def _numbered(rows: Dataset, task: BenchmarkTask, label: str) -> Dataset:
    """Rows with the task's numbers as labels, which files may have as words or in an order of their own."""
    needed = (*task.columns.texts, "label")
    check_columns(rows.column_names, needed, label, remedy=f"expected {', '.join(needed)}")
    if len(rows) == 0:
        raise ValueError(f"{label} has 0 rows; expected at least one")
    values, own_names = rows["label"][:], class_names(rows.features["label"])
    own_words = [_word(name, task.words) for name in own_names]
    has_words = {*task.words} <= {*own_words}
    # numbers of other names may be those of other classes
    if task.words and not has_words and own_words not in ([*map(str, range(len(own_words)))], ["false", "true"]):
        raise ValueError(
            f"{label} numbers the classes {first_of(own_names)}; expected {', '.join(task.words)}, or plain numbers "
            f"0 … {len(task.words) - 1}"
        )
    numbers = []
    for value in values:
        is_word = has_words and isinstance(value, int) and 0 <= value < len(own_names)
        word = own_words[value] if is_word else _word(str(value), task.words)
        number = float(task.words.index(word)) if word in task.words else finite_number(value)
        if number is None or not (0 <= number <= 5 if task.kind == VALUES else number in range(len(task.words))):
            expected = f"0 … {len(task.words) - 1} or {', '.join(task.words)}" if task.words else "numbers from 0 to 5"
            raise ValueError(f"{label} has the label {short_repr(value)}; expected {expected} (test rows have none)")
        numbers.append(number)
    if numbers == values:
        return rows
    return rows.remove_columns("label").add_column("label", [int(one) for one in numbers] if task.words else numbers)


def _word(name: str, words: Sequence[str]) -> str:
    """The task's word for a class, which may be written `Not entailment`, or begun, as `neg`; else the name."""
    bare = re.sub(r"[\s-]+", "_", name.strip().lower())
    begun = [word for word in words if word.startswith(bare)]
    return bare if bare in words or len(begun) != 1 or not bare else begun[0]


def _questions(rows: Dataset, label: str) -> Dataset:
    """Rows with SQuAD's columns, by number where they have no `id`, once they are checked."""
    check_columns(rows.column_names, _SQUAD_COLUMNS[1:], label, remedy=f"expected {', '.join(_SQUAD_COLUMNS)}")
    if len(rows) == 0:
        raise ValueError(f"{label} has 0 questions; expected at least one")
    found = question_rows(ReadRows(rows, SQUAD_TASKS["squad"].columns, label))
    if found is None or len(found) < len(rows):
        raise ValueError(f"{label} has rows without 'answers'; expected empty lists where there is no answer")
    identity, count = Counter(found["id"][:]).most_common(1)[0]
    if count > 1:
        raise ValueError(f"{label} has id={identity!r} {count} times; expected one row a question")
    return found
