"""The labelled rows of one task, and their download from the Hub; `glue/data.py` and `squad/data.py` name tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import datasets
from datasets import Dataset

from ..files.hub_errors import HTTP_ERROR
from ..files.messages import first_line

PART_SUFFIX = "_part"


@dataclass(frozen=True)
class TaskData:
    """Labelled rows of one task.

    Args:
        task: name of its metric.
        name: of its results: the task's name, with `_part` behind it for a part of its rows.
        train: training rows.
        dev: split → rows to measure on: `validation`; `validation_matched` and `validation_mismatched` for MNLI.
        sha256: of all rows.
        group_column: rows with one value in this column stay together when rows are held out, such as the questions
            of one text; default: every row stands for itself.
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
