"""Students of a sweep on all held-out text: what is measured, on what, and what the page says."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from sweep_records import model, write_results
from tiny_files import write_teacher, write_text

from homodistil_hf.experiments.sweep.cells import Cell
from homodistil_hf.experiments.sweep.folder import record_head, write_record

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


def test_every_student_is_measured_on_all_blocks_with_the_same_masks(monkeypatch, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    settings = {"teacher": str(teacher), "eval_data": [str(write_text(tmp_path / "eval.txt"))], "max_eval_blocks": 2}
    for arm, seed in (("homodistil", 0), ("homodistil", 1), ("one_shot", 0)):
        cell = Cell(arm, {"seed": seed}, arm, settings | {"seed": seed})
        write_record(tmp_path / "sweep" / "results" / f"{cell.name}.json", record_head(cell) | {"status": "done"})
        write_teacher(tmp_path / "sweep" / cell.name / "student", num_hidden_layers=1, max_position_embeddings=128)
    results = tmp_path / "held_out" / "methods_quarter.json"
    argv = ["held_out.py", tmp_path / "sweep", "--arms", "homodistil", "one_shot", "--results", results]
    monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
    runpy.run_path(str(BENCHMARKS / "results" / "held_out.py"))["main"]()
    content = json.loads(results.read_text())
    models = content["models"]
    assert [(model["arm"], model["seed"]) for model in models] == [
        ("homodistil", 0),
        ("homodistil", 1),
        ("one_shot", 0),
    ]
    assert len({(model["num_blocks"], model["num_masked_tokens"]) for model in models}) == 1
    assert models[0]["num_blocks"] > content["num_chosen_on"] == 2
    assert all(model["kl"] > 0 and 0 <= model["agreement"] <= 1 for model in models)
    assert page_lines(monkeypatch, tmp_path)[0] == "## On all held-out text"
    (tmp_path / "sweep" / "homodistil,seed=1" / "student" / "config.json").unlink()  # measured, and not needed again
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--run_seeds", "0"])
    runpy.run_path(str(BENCHMARKS / "results" / "held_out.py"))["main"]()
    assert json.loads(results.read_text()) == content
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--mask_seed", "5"])
    with pytest.raises(
        ValueError, match="methods_quarter.json is of {'mask_seed': 1234}, not of .*; name another file"
    ):
        runpy.run_path(str(BENCHMARKS / "results" / "held_out.py"))["main"]()


def page_lines(monkeypatch: Any, folder: Path) -> list[str]:
    sections = runpy.run_path(str(BENCHMARKS / "results" / "held_out_results.py"))["held_out_sections"](folder)
    return "\n".join(sections).splitlines()


@pytest.mark.parametrize(("kls", "words"), [((0.60, 0.62), "0.110 ± 0.000 (2)*"), ((0.50, 0.60), "0.050 ± 0.057 (2)")])
def test_a_difference_is_marked_where_it_is_beyond_chance(monkeypatch, tmp_path, kls, words):
    """Of two seeds a mean counts beyond 12.7 standard errors."""

    models = [model("homodistil", seed, kl) for seed, kl in enumerate((0.49, 0.51))]
    models += [model("one_shot", seed, kl) for seed, kl in enumerate(kls)]
    write_results(tmp_path, "methods_quarter", models)
    lines = page_lines(monkeypatch, tmp_path)
    row = f"| `one_shot` − `homodistil` | {words} | 0.000 ± 0.000 (2) | 0.000 ± 0.000 (2) | 0.000 ± 0.000 (2) |"
    assert row in lines
    assert "| homodistil | 0.500 ± 0.014 (2) | 0.700 ± 0.000 (2) | 0.400 ± 0.000 (2) | 3.000 ± 0.000 (2) |" in lines


def test_single_runs_are_paired_by_budget_and_borrow_the_noise_of_a_quarter(monkeypatch, tmp_path):
    """Gaps of 0.00, 0.01 and 0.02 nats: s = 0.01, 2 degrees of freedom, so that 0.043 is chance and 0.044 is not."""
    models = [model("homodistil", seed, 0.5) for seed in range(3)]
    models += [model("one_shot", seed, 0.50 + 0.01 * seed) for seed in range(3)]
    models += [model("scratch", seed, 3.0 + seed) for seed in range(3)]
    write_results(tmp_path, "methods_quarter", models)
    single = {"max_steps=250": (0.7, 0.743), "max_steps=500": (0.6, 0.556)}
    arms = ("homodistil", "one_shot")
    models = [model(arm, 0, kls[arms.index(arm)], axes) for arm in arms for axes, kls in single.items()]
    write_results(tmp_path, "tokens_planned", models)
    lines = page_lines(monkeypatch, tmp_path)
    assert any("(in KL 0.0100 nats, 2 degrees of freedom)" in line for line in lines)
    assert any(line.startswith("| homodistil, max_steps=250 | 0.700 |") for line in lines)
    assert any(line.startswith("| `one_shot` − `homodistil`, max_steps=250 | 0.043 |") for line in lines)
    assert any(line.startswith("| `one_shot` − `homodistil`, max_steps=500 | -0.044* |") for line in lines)


def test_a_student_taken_from_another_sweep_is_found_there(monkeypatch, tmp_path):
    models_of = runpy.run_path(str(BENCHMARKS / "results" / "sweep_models.py"))["models_of"]
    budget = {"max_steps": 7, "eval_steps": 1}
    cell = Cell("homodistil", {"budget": budget, "seed": 3}, "homodistil", {"teacher": "t", "seed": 3})
    source = {"status": "done", "taken_from": "other/homodistil,seed=3"}
    write_record(tmp_path / "here" / "results" / f"{cell.name}.json", record_head(cell) | source)
    student = tmp_path / "other" / "homodistil,seed=3" / "student"
    student.mkdir(parents=True)
    _, found = models_of(tmp_path / "here", ["homodistil"])
    assert (found.folder, found.axes, found.seed) == (student, "max_steps=7", 3)


def test_without_it_the_page_says_nothing(monkeypatch, tmp_path):
    assert page_lines(monkeypatch, tmp_path) == []


def test_the_page_in_the_repository_is_of_the_records_beside_it(monkeypatch):
    folder = BENCHMARKS.parent / "docs" / "results"
    lines = page_lines(monkeypatch, folder)
    assert "\n".join(lines) in (folder.parent / "results.md").read_text(encoding="utf-8")
