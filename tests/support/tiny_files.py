"""A tiny teacher, its text and a config in a folder, as the command line finds them."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import VOCAB_SIZE, make_teacher, tiny_tokenizer
from tiny_trainers import QUARTER

from homodistil_hf.cli import main

NUM_DOCUMENTS = 120


def change_json(path: Path, **values: Any) -> None:
    """Write some values of a file of settings anew."""
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def write_teacher(folder: Path, **config: Any) -> Path:
    """2 layers × 32 hidden, 96 words, with its tokenizer."""
    make_teacher(**config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def write_text(path: Path, *, seed: int = 0, num_documents: int = NUM_DOCUMENTS) -> Path:
    """Documents of 20 words, separated by empty lines."""
    draw = random.Random(seed)
    documents = (" ".join(f"w{draw.randrange(5, VOCAB_SIZE)}" for _ in range(20)) for _ in range(num_documents))
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return path


def write_config(folder: Path, **settings: Any) -> Path:
    """A whole run in `folder`: teacher, train.txt, eval.txt, config.json; output goes to `folder/run`."""
    if not (folder / "teacher").is_dir():
        write_teacher(folder / "teacher")
        write_text(folder / "train.txt")
        write_text(folder / "eval.txt", seed=1)
    values = {
        "teacher": str(folder / "teacher"),
        "student": QUARTER,
        "train_data": str(folder / "train.txt"),
        "eval_data": str(folder / "eval.txt"),
        "max_seq_length": 16,
        "output_dir": str(folder / "run"),
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "logging_steps": 4,
        "save_steps": 4,
        "report_to": "none",
        "teacher_dtype": "float32",
        "use_cpu": True,
    }
    if settings.get("pruning_end_fraction"):
        values["pruning_interval_steps"] = 2
    if settings.get("method") == "scratch":
        del values["teacher_dtype"]
    path = folder / "config.json"
    path.write_text(json.dumps(values | settings), encoding="utf-8")
    return path


def own_cache(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep the caches of a test out of the user's, and of other tests'."""
    monkeypatch.setenv("HOMODISTIL_CACHE", str(folder))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")


def assert_resumed_alike(command: Sequence[str], run: Path, checkpoint: str) -> None:
    """A command that goes on from a checkpoint of its finished run ends with the same weights."""
    file = run / "student" / "model.safetensors"
    before = file.read_bytes()
    assert main([*command, "--resume_from_checkpoint", str(run / checkpoint)]) == 0
    assert file.read_bytes() == before


def assert_family_resumed_alike(command: Sequence[str], member: Path) -> None:
    """A family whose member was killed before its end ends it with the same weights."""
    before = (member / "student" / "model.safetensors").read_bytes()
    (member / "results.json").unlink()
    assert main([*command, "--resume_from_checkpoint", "last"]) == 0
    assert (member / "student" / "model.safetensors").read_bytes() == before


def assert_same_weights(one: Path, other: Path) -> None:
    """Two folders of models hold the same tensors, to the last bit."""
    tensors, others = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert tensors.keys() == others.keys()
    assert [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])] == []
