"""A tiny teacher and rows of every kind of task and of a reranker, as people have them in files, and runs on them."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tiny_files import assert_same_weights, write_teacher
from tiny_models import VOCAB_SIZE
from tiny_trainers import QUARTER
from transformers import AutoConfig, AutoTokenizer

from homodistil_hf import (
    HomoDistilTrainer,
    HomoDistilTrainingArguments,
    RerankerDistilArguments,
    RerankerDistilTrainer,
)
from homodistil_hf.embedding.reranker import pairs_in
from homodistil_hf.runs.config import run_of as settings_of
from homodistil_hf.runs.distill import run
from homodistil_hf.tasks.columns import find_columns
from homodistil_hf.tasks.held_out import keep_aside
from homodistil_hf.tasks.kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES, task_kind_of

FEELINGS, MARKS = ["bad", "fair", "good"], ["O", "B-PER", "I-PER"]
NUM_ROWS = 48


def _named(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def _text(draw: np.random.Generator, num_words: int) -> str:
    return " ".join(f"w{word}" for word in draw.integers(5, VOCAB_SIZE, num_words))


def _texts(draw: np.random.Generator) -> dict[str, list[Any]]:
    return {"text": [_text(draw, 4 + row % 5) for row in range(NUM_ROWS)]}


def _pairs(draw: np.random.Generator) -> dict[str, list[Any]]:
    return {name: [_text(draw, 3 + row % 3) for row in range(NUM_ROWS)] for name in ("sentence1", "sentence2")}


def _questions(draw: np.random.Generator) -> dict[str, list[Any]]:
    contexts = [_text(draw, 9) for _ in range(NUM_ROWS)]
    words = [text.split() for text in contexts]
    answers = [{"text": [" ".join(row[2:4])], "answer_start": [len(" ".join(row[:2])) + 1]} for row in words]
    return {"question": [_text(draw, 3) for _ in contexts], "context": contexts, "answers": answers}


def _tagged(draw: np.random.Generator) -> dict[str, list[Any]]:
    words = [_text(draw, 3 + row % 5).split() for row in range(NUM_ROWS)]
    return {"tokens": words, "ner_tags": [["B-PER", "I-PER", *["O"] * (len(row) - 2)] for row in words]}


def _rows_of_ranked_pairs(draw: np.random.Generator) -> dict[str, list[Any]]:
    """Three passages a query, of graded worth."""
    rows = [(query, worth) for query in range(NUM_ROWS // 3) for worth in range(3)]
    return {
        "query": [f"w{10 + query} w{20 + query}" for query, _ in rows],
        "passage": ["w7 " * worth + f"w{30 + query}" for query, worth in rows],
        "relevance": [worth for _, worth in rows],
    }


def _cycled(values: Sequence[Any]) -> list[Any]:
    return [values[row % len(values)] for row in range(NUM_ROWS)]


_SEQUENCES = {"task": "sequence_classification"}
KINDS: dict[str, tuple[str, dict[str, Any], Callable[[np.random.Generator], dict[str, list[Any]]], str]] = {
    "classes": (
        CLASSES,
        _SEQUENCES | _named(FEELINGS),
        lambda draw: _texts(draw) | {"label": _cycled(FEELINGS)},
        "csv",
    ),
    "pairs": (CLASSES, _SEQUENCES, lambda draw: _pairs(draw) | {"label": _cycled([0, 1])}, "parquet"),
    "several labels": (
        LABELS,
        _SEQUENCES | _named(FEELINGS) | {"problem_type": "multi_label_classification"},
        lambda draw: _texts(draw) | {"labels": _cycled([FEELINGS[:1], FEELINGS[1:], []])},
        "jsonl",
    ),
    "values": (
        VALUES,
        _SEQUENCES | {"num_labels": 1},
        lambda draw: _pairs(draw) | {"score": draw.normal(size=NUM_ROWS).tolist()},
        "parquet",
    ),
    "two values": (
        VALUES,
        _SEQUENCES | _named(["joy", "fear"]) | {"problem_type": "regression"},
        lambda draw: _texts(draw) | {name: draw.normal(size=NUM_ROWS).tolist() for name in ("joy", "fear")},
        "csv",
    ),
    "tags": (TAGS, {"task": "token_classification"} | _named(MARKS), _tagged, "parquet"),
    "answers": (ANSWERS, {"task": "question_answering"}, _questions, "json"),
}
"""Name → kind, settings of its teacher, its rows, the format of their file."""
RANKED = "ranked pairs"
WITH_RANKED = KINDS | {RANKED: ("scores of pairs", _SEQUENCES | {"num_labels": 1}, _rows_of_ranked_pairs, "parquet")}
"""The same with the rows of a reranker, whose runs have a kind of their own."""
LABEL_COLUMNS = ("label", "labels", "score", "joy", "fear", "ner_tags", "answers", "relevance")


def rows_of_kind(name: str, *, seed: int = 0, has_labels: bool = True) -> Dataset:
    """Rows of one of `WITH_RANKED`, of few words."""
    columns = WITH_RANKED[name][2](np.random.default_rng(seed))
    return Dataset.from_dict({key: cells for key, cells in columns.items() if has_labels or key not in LABEL_COLUMNS})


def write_kind(folder: Path, name: str, *, has_labels: bool = True) -> dict[str, Any]:
    """Write teacher and rows of one of `WITH_RANKED`; return the settings of a short run on them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_teacher(folder / "teacher", **WITH_RANKED[name][1])
    file = folder / f"rows.{WITH_RANKED[name][3] if has_labels else 'jsonl'}"
    rows = rows_of_kind(name, has_labels=has_labels)
    {".csv": rows.to_csv, ".parquet": rows.to_parquet}.get(file.suffix, rows.to_json)(file)
    return {
        "teacher": str(folder / "teacher"),
        "train_data": [str(file)],
        "student": QUARTER,
        "output_dir": str(folder / "run"),
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "num_scoring_batches": 2,
        "learning_rate": 1e-3,
        "save_steps": 2,
        "logging_steps": 2,
        "report_to": "none",
        "teacher_dtype": "float32",
        "use_cpu": True,
        "disable_tqdm": True,
    }


def write_started(folder: Path, name: str, start: str | Path, *, has_labels: bool = True) -> dict[str, Any]:
    """As [`write_kind`]; the run starts from a general student, so nothing is pruned."""
    settings = write_kind(folder, name, has_labels=has_labels)
    of_pruning = ("student", "num_scoring_batches")
    return {key: value for key, value in settings.items() if key not in of_pruning} | {"start": str(start)}


def trained_in_python(
    name: str, settings: dict[str, Any], folder: Path, **more: Any
) -> tuple[HomoDistilTrainer, Dataset]:
    """The trainer of such a run, given raw rows of `WITH_RANKED` and once trained; and the rows held out."""
    rows, teacher, start = rows_of_kind(name), settings["teacher"], settings.get("start")
    config = AutoConfig.from_pretrained(teacher)
    if name == RANKED:
        kind, arguments = RerankerDistilTrainer, RerankerDistilArguments
        train, aside, _ = keep_aside(rows, pairs_in(rows).columns, together="query")
    else:
        kind, arguments = HomoDistilTrainer, HomoDistilTrainingArguments
        train, aside, _ = keep_aside(rows, find_columns(rows, config, task_kind_of(config)))
    of_command = ("teacher", "start", "train_data", "output_dir")
    own = {key: value for key, value in settings.items() if key not in of_command}
    if name != RANKED:
        own = {"train_sampling_strategy": "group_by_length"} | own  # as the command sets it
    trainer = kind(
        f"{start}/student" if start else teacher,
        arguments(str(folder), **own | more),
        teacher_model=teacher if start else None,
        train_dataset=train,
        eval_dataset=aside,
        processing_class=AutoTokenizer.from_pretrained(teacher),
    )
    trainer.train()
    return trainer, aside


def closing_code(text: str) -> str:
    """The lines of Python that a run's summary ends with."""
    lines = [line[2:] for line in text.splitlines() if line.startswith("  ")]
    code = "\n".join(lines[next(n for n, line in enumerate(lines) if line.startswith("from ")) :])
    return code.replace("…", "w7 w8")


def assert_goes_on(settings: dict[str, Any], results: dict[str, Any], folder: Path) -> None:
    """A copy of a finished run, in `folder`, ends as it did once its last checkpoint and student are gone."""
    shutil.copytree(settings["output_dir"], folder / "run")
    shutil.rmtree(folder / "run" / "student")
    shutil.rmtree(folder / "run" / f"checkpoint-{settings['max_steps']}")
    again = run(settings_of({**settings, "output_dir": str(folder / "run"), "resume_from_checkpoint": "last"}, "it"))
    assert again["evaluation"] == results["evaluation"]
    assert_same_weights(folder / "run" / "student", Path(settings["output_dir"]) / "student")
