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

from benchmarks.results.task_model_page import task_model_lines
from homodistil_hf.models.widths import teacher_plan

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
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
    return runpy.run_path(str(BENCHMARKS / "results" / "task_model.py"))


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
    with pytest.raises(ValueError, match="two students of 256 tokens"):
        run(script, monkeypatch, tmp_path, "--learning_rates", 1e-3, "--general", student, student)


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


def page_record(
    arm: str, accuracy: float, *, seed: int = 0, rate: float = 1e-4, search: bool = False
) -> dict[str, Any]:
    costs = {"num_general_tokens": 4_096_000, "num_task_tokens": 250_000, "num_steps": 314, "seconds": 60.0}
    quality = {"accuracy": accuracy, "agreement": 0.9, "kl": 0.25}
    return {"arm": arm, "seed": seed, "is_search": search, "learning_rate": rate, **costs, **quality}


def page_results(*records: dict[str, Any]) -> dict[str, Any]:
    arms = ["teacher", "pruned_on_task", "pruned_on_task_no_labels", "general_4.1M_fine_tuned"]
    options = {"student": "macs=0.25", "batch_size": 64, "max_length": 64, "learning_rates": [1e-4, 3e-4]}
    epochs = {"num_train_epochs": 2, "num_pruning_epochs": 4, "num_search_epochs": 1}
    return {
        "options": options | epochs,
        "data": {"num_train_rows": 10_000, "num_search_rows": [9000, 1000], "num_dev_rows": 900},
        "arms": {arm: {"rate_of": "pruned_on_task" if "no_labels" in arm else arm} for arm in arms},
        "seeds": [0, 1],
        "machine": {"processor": "a processor", "num_cores": 2, "num_threads": 1, "versions": {"torch": "2"}},
        "records": list(records),
    }


def test_the_page_says_which_way_is_better_and_what_is_missing():
    lines = task_model_lines(
        page_results(
            *(page_record("teacher", 0.8, seed=seed) for seed in (0, 1)),
            *(page_record("pruned_on_task", 0.76 - 0.04 * seed, seed=seed, rate=3e-4) for seed in (0, 1)),
            page_record("pruned_on_task_no_labels", 0.75),
            *(page_record("general_4.1M_fine_tuned", 0.5, seed=seed) for seed in (0, 1)),
            page_record("pruned_on_task", 0.7, search=True),
            page_record("pruned_on_task", 0.71, search=True, rate=3e-4),
        )
    )
    row = next(line for line in lines if line.startswith("| pruned_on_task |"))
    assert row == (
        "| pruned_on_task | it, pruned while distilled on the task | 4.10 M | 0.25 M | 314 | 0.0003 | "
        "0.740 ± 0.028 (2) | 0.925 ± 0.035 (2) | 0.900 ± 0.000 (2) | 0.250 ± 0.000 (2) |"
    )
    # Of 900 rows each, two standard errors of a difference near 0.5 are √2/30; near 0.75 they are 0.041.
    assert "| `pruned_on_task` − `general_4.1M_fine_tuned` | +0.240 ± 0.028 (2), **better** | 0.047 |" in lines
    assert "| `pruned_on_task` − `pruned_on_task_no_labels` | +0.010, within noise | 0.041 |" in lines
    assert "| pruned_on_task | 0.700 | 0.710 |" in lines
    assert "Best at the first or last of them, so perhaps better beyond: `pruned_on_task`." in lines
    assert "| pruned_on_task_no_labels | that of `pruned_on_task` |  |" in lines
    assert "Not run: `pruned_on_task_no_labels,seed=1`." in lines


def test_the_page_says_nothing_of_what_was_not_begun():
    assert task_model_lines(None) == []
    lines = task_model_lines(page_results(page_record("teacher", 0.8)))
    assert any("Not run: `teacher,seed=1`, `pruned_on_task,seed=0`" in line for line in lines)
    assert not any("standard error" in line for line in lines)
