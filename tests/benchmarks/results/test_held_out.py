"""Students of a sweep on all held-out text: what is measured, on what, and where the students lie."""

import json
import runpy
import sys
from pathlib import Path

import pytest
from sweep_records import FIGURES
from tiny_files import write_teacher, write_text

from benchmarks.sweep.cells import Cell
from benchmarks.sweep.folder import record_head, write_record

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_every_student_is_measured_on_all_blocks_with_the_same_masks(monkeypatch, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    settings = {"teacher": str(teacher), "eval_data": [str(write_text(tmp_path / "eval.txt"))], "max_eval_blocks": 2}
    for variant, seed in (("homodistil", 0), ("homodistil", 1), ("one_shot", 0)):
        cell = Cell(variant, {"seed": seed}, variant, settings | {"seed": seed})
        write_record(tmp_path / "sweep" / "results" / f"{cell.name}.json", record_head(cell) | FIGURES)
        write_teacher(tmp_path / "sweep" / cell.name / "student", num_hidden_layers=1, max_position_embeddings=128)
    results = tmp_path / "held_out" / "sizes.json"
    argv = ["held_out.py", tmp_path / "sweep", "--variants", "homodistil", "one_shot", "--results", results]
    monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
    runpy.run_path(str(BENCHMARKS / "results" / "held_out.py"))["main"]()
    content = json.loads(results.read_text())
    models = content["models"]
    assert [(model["variant"], model["seed"]) for model in models] == [
        ("homodistil", 0),
        ("homodistil", 1),
        ("one_shot", 0),
    ]
    assert len({(model["num_blocks"], model["num_masked_tokens"]) for model in models}) == 1
    assert models[0]["num_blocks"] > content["num_chosen_on"] == 2
    assert all(model["kl"] > 0 and 0 <= model["agreement"] <= 1 for model in models)
    (tmp_path / "sweep" / "homodistil,seed=1" / "student" / "config.json").unlink()  # measured, and not needed again
    fewer = [word for word in sys.argv if word != "one_shot"]
    monkeypatch.setattr(sys, "argv", [*fewer, "--run_seeds", "0"])
    runpy.run_path(str(BENCHMARKS / "results" / "held_out.py"))["main"]()
    assert json.loads(results.read_text()) == content
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--mask_seed", "5"])
    with pytest.raises(ValueError, match="sizes.json is of {'mask_seed': 1234}, not of .*; name another file"):
        runpy.run_path(str(BENCHMARKS / "results" / "held_out.py"))["main"]()
