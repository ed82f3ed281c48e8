"""Students of a sweep on all held-out text: what is measured, on what, and where the students lie."""

import json

import pytest
from sweep_records import FIGURES
from tiny_files import write_teacher, write_text

from benchmarks.results import held_out
from benchmarks.sweep.cells import Cell
from benchmarks.sweep.folder import record_head, write_record


def test_every_student_is_measured_on_all_blocks_with_the_same_masks(tmp_path):
    teacher = write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    settings = {"teacher": str(teacher), "eval_data": [str(write_text(tmp_path / "eval.txt"))], "max_eval_blocks": 2}
    for variant, seed in (("homodistil", 0), ("homodistil", 1), ("one_shot", 0)):
        cell = Cell(variant, {"seed": seed}, variant, settings | {"seed": seed})
        write_record(tmp_path / "sweep" / "results" / f"{cell.name}.json", record_head(cell) | FIGURES)
        write_teacher(tmp_path / "sweep" / cell.name / "student", num_hidden_layers=1, max_position_embeddings=128)
    results = tmp_path / "held_out" / "sizes.json"
    words = [str(tmp_path / "sweep"), "--results", str(results), "--variants", "homodistil"]
    held_out.main([*words, "one_shot"])
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
    held_out.main([*words, "--run_seeds", "0"])
    assert json.loads(results.read_text()) == content
    with pytest.raises(ValueError, match="sizes.json is of {'mask_seed': 1234}, not of .*; name another file"):
        held_out.main([*words, "--mask_seed", "5"])
