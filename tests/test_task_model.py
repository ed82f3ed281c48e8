"""One task model, two ways: every arm on tiny models, records that are not made twice, what the page says."""

import json
import math
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny_files import write_teacher
from tiny_glue import NUM_DEV, NUM_TRAIN, write_task
from transformers import AutoModelForSequenceClassification

from homodistil_hf.widths import teacher_plan

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PLAN = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
WORDS = {
    "student": json.dumps(PLAN),
    "max_length": 12,
    "batch_size": 8,
    "num_train_epochs": 1,
    "num_pruning_epochs": 2,
    "num_search_epochs": 1,
}
NUM_LEARNED = NUM_TRAIN - NUM_TRAIN // 10


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / "task_model.py"))


def write_general_student(make_trainer: Any, folder: Path, tokenizer: Any) -> Path:
    """The export of a run of 2 steps with 8 blocks of 16 tokens each, as `homodistil distill` leaves it."""
    trainer = make_trainer(output_dir=str(folder), max_steps=2, student=PLAN, pruning_interval_steps=1)
    trainer.train()
    (folder / "settings.json").write_text(json.dumps({"teacher": "x", "max_seq_length": 16}))
    return Path(trainer.export(folder / "student"))


def run(script: dict[str, Any], monkeypatch: Any, folder: Path, *words: Any, **options: Any) -> dict[str, Any]:
    """What the command writes."""
    given = [text for name, value in (WORDS | options).items() for text in (f"--{name}", str(value))]
    paths = ["--teacher", folder / "teacher", "--data_dir", folder / "data", "--output_dir", folder / "runs"]
    results = folder / "task_model.json"
    argv = ["task_model.py", *paths, "--results", results, *given, *words]
    monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
    script["main"]()
    return json.loads(results.read_text())


def test_every_arm_runs_once(script, monkeypatch, make_trainer, tokenizer, tmp_path):
    write_teacher(tmp_path / "teacher")
    write_task(tmp_path / "data", "sst2")
    student = write_general_student(make_trainer, tmp_path / "general", tokenizer)
    words = ("--learning_rates", 1e-3, 1e-4, "--general", student, "--seeds", 3)
    results = run(script, monkeypatch, tmp_path, *words)
    records = {name: [r for r in results["records"] if r["arm"] == name] for name in results["arms"]}
    searches = {name: [r for r in group if r["is_search"]] for name, group in records.items()}
    runs = {name: [r for r in group if not r["is_search"]] for name, group in records.items()}

    assert list(results["arms"]) == [
        "teacher",
        "pruned_on_task",
        "one_shot_on_task",
        "pruned_on_task_no_labels",
        "general_0.0M_fine_tuned",
        "general_0.0M_distilled",
    ]
    assert {name: len(group) for name, group in searches.items()} == {
        name: 0 if name == "pruned_on_task_no_labels" else 2 for name in results["arms"]
    }
    for name, (record,) in runs.items():
        of = searches[results["arms"][name]["rate_of"]]
        best = max(of, key=lambda r: (r["accuracy"], r["learning_rate"]))
        assert record["learning_rate"] == best["learning_rate"]
        assert record["num_general_tokens"] == (2 * 8 * 16 if name.startswith("general") else 0)
        epochs = 2 if "on_task" in name else 1
        assert (record["num_rows_seen"], record["num_steps"]) == (epochs * NUM_TRAIN, epochs * NUM_TRAIN // 8)
        assert 0 <= record["accuracy"] <= 1
        assert math.isfinite(record["kl"])
    assert runs["teacher"][0]["kl"] == pytest.approx(0, abs=1e-6)
    assert runs["pruned_on_task"][0]["kl"] > 1e-6
    macs = {name: group[0]["encoder_macs"] for name, group in runs.items()}
    assert len({value for name, value in macs.items() if name != "teacher"}) == 1 < macs["teacher"]
    assert {r["num_rows_seen"] for group in searches.values() for r in group} == {NUM_LEARNED}
    exported = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "runs" / "runs" / "pruned_on_task,seed=3" / "student"
    )
    assert teacher_plan(exported.config).to_dict()["hidden_size"] == 16
    assert results["data"]["num_dev_rows"] == NUM_DEV

    again = run(script, monkeypatch, tmp_path, *words)
    assert again["records"] == results["records"]  # seconds too: nothing was trained again
    with pytest.raises(ValueError, match="name another --output_dir"):
        run(script, monkeypatch, tmp_path, *words, max_length=10)


def test_rows_of_like_length_follow_each_other(script):
    sizes = list(range(1, 401))
    rows = Dataset.from_dict({"input_ids": [[0] * size for size in sizes], "length": sizes})
    ordered = script["in_order"](rows, 2, 4, 0)
    lengths = [len(ids) for ids in ordered["input_ids"]]
    assert ordered.column_names == ["input_ids"]
    assert sorted(lengths[:400]) == sorted(lengths[400:]) == sizes
    assert lengths[:400] != lengths[400:]
    spans = [max(lengths[i : i + 4]) - min(lengths[i : i + 4]) for i in range(0, 800, 4)]
    assert sum(spans) / len(spans) < 40  # 241 without an order
    assert script["in_order"](rows, 2, 4, 0)["input_ids"][:] == ordered["input_ids"][:]


def test_discrepancy_is_per_row(script):
    teacher = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    student = torch.zeros(2, 2)
    by_hand = (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)) / 2
    assert script["kl"](teacher, student) == pytest.approx(by_hand)


def test_a_student_without_a_run_is_refused(script, tmp_path):
    tiny = SimpleNamespace(source="x", export=None)
    with pytest.raises(ValueError, match="'x' is no export"):
        script["general_tokens"](tiny)
    (tmp_path / "student").mkdir()
    settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    facts = {"settings": settings, "training": {"num_steps": 3}}
    (tmp_path / "student" / "facts.json").write_text(json.dumps(facts))
    known = SimpleNamespace(source="x", export=tmp_path / "student")
    with pytest.raises(ValueError, match=r"has no cell\.json or settings\.json"):
        script["general_tokens"](known)
    (tmp_path / "cell.json").write_text(json.dumps({"settings": {"max_seq_length": 16}}))
    assert script["general_tokens"](known) == 3 * 4 * 2 * 16
