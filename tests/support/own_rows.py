"""Labelled rows of one's own in files beside a tiny model, and a fine-tuning on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tiny_files import write_teacher
from tiny_models import VOCAB_SIZE

from homodistil_hf.evaluation.fine_tuning import OwnTaskSettings, fine_tune_own, settings_from

_QUICK = {"max_length": 24, "batch_size": 8, "learning_rate": 1e-3, "num_train_epochs": 2, "dtype": "float32"}


def rows(num_rows: int, label: Callable[[int], Any] = lambda word: "even" if word % 2 == 0 else "odd") -> Dataset:
    """Texts of four words, labelled by the first."""
    words = torch.randint(5, VOCAB_SIZE, (num_rows, 4), generator=torch.Generator().manual_seed(num_rows)).tolist()
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    return Dataset.from_dict({"text": texts, "label": [label(row[0]) for row in words]})


def write_own_task(folder: Path) -> dict[str, Any]:
    """Write a tiny model and rows of two named classes; return the settings of a fine-tuning on them."""
    write_teacher(folder / "bert")
    rows(40).to_parquet(folder / "train.parquet")
    rows(16).to_json(folder / "dev.jsonl")
    paths = {"model": "bert", "train_data": "train.parquet", "eval_data": "dev.jsonl", "output_dir": "out"}
    return {**{name: str(folder / path) for name, path in paths.items()}, **_QUICK}


def run(given: dict[str, Any], **changes: Any) -> tuple[dict[str, Any], list[str]]:
    """Fine-tune; return the results and the lines for the user."""
    lines: list[str] = []
    return fine_tune_own(settings_from(OwnTaskSettings, {**given, **changes}), lines.append), lines
