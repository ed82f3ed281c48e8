"""Students of a sweep fine-tuned on tasks, plainly and beside their teacher: what is trained, and only once."""

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from safetensors.torch import load_file
from sweep_records import FIGURES
from tiny_files import write_teacher
from tiny_glue import write_task

from benchmarks.results import fine_tunings
from benchmarks.sweep.cells import Cell
from benchmarks.sweep.folder import record_head, write_record
from homodistil_hf.evaluation.metrics import constant_score
from homodistil_hf.evaluation.task_data import load_glue

RESULTS = Path(__file__).parents[3] / "docs" / "results"


def add_student(sweep_folder: Path, teacher: Path, variant: str, seed: int) -> None:
    """A cell that is done, whose student is a model of its own."""
    cell = Cell(variant, {"seed": seed}, "homodistil", {"teacher": str(teacher), "seed": seed})
    write_record(sweep_folder / "results" / f"{cell.name}.json", record_head(cell) | FIGURES)
    write_teacher(sweep_folder / cell.name / "student", max_position_embeddings=128, intermediate_size=16)


def run(monkeypatch: Any, folder: Path, *variants: str, seeds: tuple[int, ...] = (0,)) -> list[dict[str, Any]]:
    """The models of the file that the command writes."""
    results = folder / "fine_tunings.json"
    argv = ["fine_tunings.py", folder / "sweep", "--variants", *variants, "--run_seeds", *seeds, "--tasks", "rte"]
    argv += ["--data_dir", folder / "data", "--results", results, "--max_train_steps", "4"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
    fine_tunings.main()
    return json.loads(results.read_text())["models"]


def _best(scores: dict[str, float]) -> float:
    return float(max(scores, key=lambda rate: scores[rate]))


@pytest.fixture
def folder(tmp_path):
    teacher = write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    write_task(tmp_path / "data", "rte")
    for variant, seed in (("half", 0), ("quarter", 0), ("quarter", 1)):
        add_student(tmp_path / "sweep", teacher, variant, seed)
    return tmp_path


def test_each_student_is_fine_tuned_both_ways_once(monkeypatch, folder):
    models = run(monkeypatch, folder, "quarter")
    places = [("teacher", None, "plain"), ("quarter", 0, "by the teacher"), ("quarter", 0, "plain")]
    assert [(model["variant"], model["seed"], model["way"]) for model in models] == places
    assert all(model["scores"].keys() == model["learning_rates"].keys() == {"rte"} for model in models)
    assert all(model["tried"]["rte"].keys() == {"0.0001", "0.0003", "0.0006"} for model in models)
    assert all(model["learning_rates"]["rte"] == _best(model["tried"]["rte"]) for model in models)
    written = {file: file.stat().st_mtime_ns for file in (folder / "sweep").rglob("rte.*.json")}
    assert len(written) == 3 * 4  # three rates that are tried, and the one that is taken
    assert run(monkeypatch, folder, "quarter") == models
    assert {file: file.stat().st_mtime_ns for file in written} == written
    more = run(monkeypatch, folder, "half")
    assert [model["variant"] for model in more] == ["teacher", "half", "half", "quarter", "quarter"]


def test_the_teacher_of_a_task_is_the_one_that_was_scored(monkeypatch, folder):
    run(monkeypatch, folder, "quarter")
    kept = load_file(folder / "sweep" / "teacher" / "fine_tuned" / "rte" / "model.safetensors")
    start = load_file(folder / "teacher" / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not kept[name].equal(start[name])
    assert "classifier.weight" in kept


def test_a_model_that_learned_nothing_scores_as_the_most_frequent_label(monkeypatch, folder):
    train, held_out = (
        pyarrow.parquet.read_table(folder / "data" / "rte" / f"{split}.parquet")["label"].to_pylist()
        for split in ("train", "validation")
    )
    share = held_out.count(max(set(train), key=train.count)) / len(held_out)
    (folder / "fine_tunings.json").write_text(json.dumps({"constant": {"cola": 0.0}, "models": []}))
    run(monkeypatch, folder, "quarter")
    constant = json.loads((folder / "fine_tunings.json").read_text())["constant"]
    assert constant == {"cola": 0.0, "rte": pytest.approx(share, abs=1e-4)}


def test_the_committed_floor_is_that_of_the_data(monkeypatch, real_data):
    committed = json.loads((RESULTS / "fine_tunings.json").read_text())["constant"]
    scores = {task: constant_score(load_glue(task, str(real_data / "glue"))) for task in committed}
    assert committed == {task: pytest.approx(score, abs=1e-4) for task, score in scores.items()}
