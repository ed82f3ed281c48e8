"""GLUE tasks of a few rows in a folder, as a user's own copy of them lies there, and results without a training."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from datasets import Dataset
from tiny_models import VOCAB_SIZE, make_teacher, tiny_tokenizer

from homodistil_hf.evaluation.evaluated_model import EvaluatedModel
from homodistil_hf.evaluation.fine_tuning import FineTuned
from homodistil_hf.tasks.glue import GLUE_TASKS

NUM_TRAIN, NUM_DEV = 40, 12


def write_task(
    data_dir: Path, task: str, *, folder: str | None = None, splits: Mapping[str, int] | None = None
) -> Path:
    """`data_dir/task/train.parquet` and `validation.parquet`: random words, random labels, columns as on the Hub."""
    draw = random.Random(task)
    target = data_dir / (folder or task)
    target.mkdir(parents=True)
    for split, num_rows in (splits or {"train": NUM_TRAIN, "validation": NUM_DEV}).items():
        pyarrow.parquet.write_table(pyarrow.table(columns(task, num_rows, draw)), target / f"{split}.parquet")
    return target


def columns(task: str, num_rows: int, draw: random.Random) -> dict[str, list[Any]]:
    described = GLUE_TASKS[task]
    texts = {
        column: [
            " ".join(f"w{draw.randrange(5, VOCAB_SIZE)}" for _ in range(draw.randrange(3, 9))) for _ in range(num_rows)
        ]
        for column in described.columns.texts
    }
    is_value = described.num_labels == 1
    labels = [draw.uniform(0, 5) if is_value else draw.randrange(described.num_labels) for _ in range(num_rows)]
    return {**texts, "label": labels, "idx": list(range(num_rows))}


def tiny_evaluated(folder: Path, **config: Any) -> EvaluatedModel:
    """A tiny teacher whose results go to `folder`."""
    return EvaluatedModel("tiny", "tiny", make_teacher(**config), tiny_tokenizer(), folder)


class FakeMeasure:
    """Grades without a training: accuracy is what `score` says of learning rate and seed."""

    def __init__(self, score: Any = lambda learning_rate, seed: 0.5) -> None:
        self.score = score
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        evaluated: EvaluatedModel,
        task: str,
        rows: Dataset,
        measured_on: Mapping[str, Dataset],
        *,
        settings: Any,
        seed: int,
        folder: Path,
    ) -> tuple[dict[str, dict[str, float]], FineTuned]:
        self.calls.append(
            {
                "learning_rate": settings.learning_rate,
                "max_train_steps": settings.max_train_steps,
                "seed": seed,
                "rows": rows["idx"][:],
                "measured_on": {name: dev["idx"][:] for name, dev in measured_on.items()},
            }
        )
        accuracy = self.score(settings.learning_rate, seed)
        return {name: {"accuracy": accuracy} for name in measured_on}, FineTuned(evaluated.model, len(rows), 0.1)
