"""Several fine-tunings of each student of a sweep: what is trained, what is not trained twice, what the page says."""

import json
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet
import pytest
from page_results import results_of, rows_of, tables_of
from tiny_files import write_teacher
from tiny_glue import write_task

from benchmarks.results.page import commands
from homodistil_hf.evaluation.glue.data import load_glue
from homodistil_hf.evaluation.metrics import constant_score
from homodistil_hf.experiments.sweep.cells import Cell
from homodistil_hf.experiments.sweep.folder import record_head, write_record

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def add_student(sweep_folder: Path, teacher: Path, arm: str, seed: int) -> None:
    """A cell that is done, whose student is a model of its own."""
    cell = Cell(arm, {"seed": seed}, arm, {"teacher": str(teacher), "seed": seed})
    write_record(sweep_folder / "results" / f"{cell.name}.json", record_head(cell) | {"status": "done"})
    write_teacher(sweep_folder / cell.name / "student", num_hidden_layers=1, max_position_embeddings=128)


def run(monkeypatch: Any, folder: Path, *arms: str, more: Sequence[str] = ()) -> dict[str, Any]:
    """What the command writes."""
    results = folder / "fine_tunings.json"
    paths = ["--data_dir", folder / "data", "--results", results]
    argv = ["fine_tunings.py", folder / "sweep", "--arms", *arms, "--seeds", "0", "1", *paths, *more]
    argv += ["--max_train_steps", "4"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
    runpy.run_path(str(BENCHMARKS / "results" / "fine_tunings.py"))["main"]()
    return json.loads(results.read_text())


def test_teacher_and_students_are_fine_tuned_with_every_seed_once(monkeypatch, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    write_task(tmp_path / "data", "cola")
    for arm, seed in (("homodistil", 1), ("homodistil", 0), ("one_shot", 0), ("scratch", 0)):
        add_student(tmp_path / "sweep", teacher, arm, seed)
    results = run(monkeypatch, tmp_path, "one_shot", "homodistil")
    models = [(model["arm"], model["seed"]) for model in results["models"]]
    assert models == [("teacher", None), ("one_shot", 0), ("homodistil", 0), ("homodistil", 1)]
    assert all(len(model["scores"]["cola"]) == 2 for model in results["models"])

    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "sweep").rglob("cola.seed-*.json")}
    assert len(written) == 8
    assert run(monkeypatch, tmp_path, "one_shot", "homodistil")["models"] == results["models"]
    assert {file: file.stat().st_mtime_ns for file in written} == written


def test_parts_of_tasks_and_the_students_of_some_runs(monkeypatch, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    write_task(tmp_path / "data", "rte")
    write_task(tmp_path / "data", "qnli")
    (tmp_path / "data" / "qnli").rename(tmp_path / "data" / "qnli_part")
    for seed in (0, 1):
        add_student(tmp_path / "sweep", teacher, "homodistil", seed)
    results = run(monkeypatch, tmp_path, "homodistil", more=("--tasks", "rte", "qnli", "--run_seeds", "1"))
    assert [(model["arm"], model["seed"]) for model in results["models"]] == [("teacher", None), ("homodistil", 1)]
    assert [list(model["scores"]) for model in results["models"]] == [["rte", "qnli_part"]] * 2
    rte, qnli = results["models"][1]["scores"].values()
    means = {"RTE": fmean(rte), "QNLI*": fmean(qnli), "mean of RTE, QNLI*": fmean([*rte, *qnli])}
    own = {row.split(" | ")[0][2:]: row.split(" | ")[2] for row in rows_of(tables_of(tmp_path).fine_tunings())}
    assert own == {task: f"{mean:.3f}" for task, mean in means.items()}
    assert next(commands(results_of(tmp_path))).endswith("--run_seeds 1 --tasks rte qnli --seeds 0 1")


def test_an_arm_or_a_student_that_is_missing_is_named(monkeypatch, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    add_student(tmp_path / "sweep", teacher, "homodistil", 0)
    with pytest.raises(ValueError, match="no student of one_shot; run the sweep first"):
        run(monkeypatch, tmp_path, "homodistil", "one_shot")
    (tmp_path / "sweep" / "homodistil,seed=0" / "student").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="no student of homodistil,seed=0"):
        run(monkeypatch, tmp_path, "homodistil")


def model(arm: str, seed: int | None, *scores: float) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "scores": {"cola": list(scores)}}


def told(folder: Path, models: list[dict[str, Any]], name: str = "fine_tunings") -> list[str]:
    (folder / f"{name}.json").write_text(json.dumps({"models": models}))
    return rows_of(tables_of(folder).fine_tunings())


def test_the_page_tells_fine_tunings_from_students(tmp_path):
    models = [
        model("teacher", None, 0.3, 0.5),
        model("homodistil", 0, 0.1, 0.3),
        model("homodistil", 1, 0.2, 0.4),
        model("one_shot", 0, 0.1, 0.1),
        model("one_shot", 1, 0.1, 0.3),
    ]
    # Within students √((0.02 + 0.02 + 0 + 0.02)/4), between their means 0.2 and 0.3, 0.1 and 0.2: 0.071.
    figures = "CoLA | 0.400 | 0.250 | 0.150 | -0.100 ± 0.000 (2), undecided | 0.122 | 0.071"
    # Two seeds decide nothing, as there is no noise to borrow; of three Student's t asks 0.143 of the mean.
    assert told(tmp_path, models)[0] == f"| {figures} |"
    models += [model("homodistil", 2, 0.5, 0.7), model("one_shot", 2, 0.3, 0.5)]
    assert " | -0.133 ± 0.058 (3), within noise | " in told(tmp_path, models)[0]


def test_a_model_that_learned_nothing_scores_as_the_most_frequent_label(monkeypatch, tmp_path):
    for task in ("cola", "rte", "stsb"):
        write_task(tmp_path / "data", task)
    labels = {
        split: pyarrow.parquet.read_table(tmp_path / "data" / "rte" / f"{split}.parquet")["label"].to_pylist()
        for split in ("train", "validation")
    }
    most = max(set(labels["train"]), key=labels["train"].count)
    results = tmp_path / "constant_predictions.json"
    argv = ["constant_predictions.py", "--tasks", "cola", "rte", "stsb", "--data_dir", tmp_path / "data"]
    monkeypatch.setattr(sys, "argv", [*map(str, argv), "--results", str(results)])
    runpy.run_path(str(BENCHMARKS / "results" / "constant_predictions.py"))["main"]()
    share = labels["validation"].count(most) / len(labels["validation"])
    assert json.loads(results.read_text()) == {"cola": 0.0, "rte": pytest.approx(share, abs=1e-4), "stsb": 0.0}


def test_the_committed_floor_is_that_of_the_data(monkeypatch, real_data):
    committed = json.loads((BENCHMARKS.parent / "docs" / "results" / "constant_predictions.json").read_text())
    scores = {task: constant_score(load_glue(task, str(real_data / "glue"))) for task in committed}
    assert committed == {task: pytest.approx(score, abs=1e-4) for task, score in scores.items()}


def test_one_fine_tuning_of_one_student_has_no_spread(tmp_path):
    def graded(arm: str, seed: int | None, *scores: float) -> dict[str, Any]:
        return {"arm": arm, "seed": seed, "scores": {"qnli_part": [scores[0]], "cola": [scores[1]]}}

    models = [graded("teacher", None, 0.8, 0.4), graded("homodistil", 0, 0.7, 0.2), graded("one_shot", 0, 0.6, 0.2)]
    assert told(tmp_path, models, "fine_tunings_parts") == [
        "| QNLI* | 0.800 | 0.700 | 0.600 | -0.100, undecided | – | – |",
        "| CoLA | 0.400 | 0.200 | 0.200 | +0.000, undecided | – | – |",
        "| mean of QNLI*, CoLA | 0.600 | 0.450 | 0.400 | -0.050, undecided | – | – |",
    ]
