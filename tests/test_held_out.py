"""Students of a sweep on all held-out text: what is measured, on what, and what the page says."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_files import write_teacher, write_text

from homodistil_hf.sweep.cells import Cell
from homodistil_hf.sweep.records import record_head, write_record

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_every_student_is_measured_on_all_blocks_with_the_same_masks(monkeypatch, tmp_path):
    teacher = write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    settings = {"teacher": str(teacher), "eval_data": [str(write_text(tmp_path / "eval.txt"))], "max_eval_blocks": 2}
    for arm, seed in (("homodistil", 0), ("homodistil", 1), ("one_shot", 0)):
        cell = Cell(arm, {"seed": seed}, arm, settings | {"seed": seed})
        write_record(tmp_path / "sweep" / "results" / f"{cell.name}.json", record_head(cell) | {"status": "done"})
        write_teacher(tmp_path / "sweep" / cell.name / "student", num_hidden_layers=1, max_position_embeddings=128)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    results = tmp_path / "held_out.json"
    argv = ["held_out.py", tmp_path / "sweep", "--arms", "homodistil", "one_shot", "--results", results]
    monkeypatch.setattr(sys, "argv", [str(word) for word in argv])
    runpy.run_path(str(BENCHMARKS / "held_out.py"))["main"]()
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


def page_lines(monkeypatch: Any, folder: Path) -> list[str]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sections = runpy.run_path(str(BENCHMARKS / "held_out_results.py"))["held_out_sections"](folder)
    return "\n".join(sections).splitlines()


@pytest.mark.parametrize(("kls", "words"), [((0.60, 0.62), "0.110 ± 0.000 (2)*"), ((0.50, 0.60), "0.050 ± 0.057 (2)")])
def test_a_difference_is_marked_where_it_is_beyond_chance(monkeypatch, tmp_path, kls, words):
    """Of two seeds a mean counts beyond 12.7 standard errors."""

    def model(arm: str, seed: int, kl: float) -> dict[str, Any]:
        counts = {"num_blocks": 1000, "num_masked_tokens": 20_000}
        return {"arm": arm, "seed": seed, "kl": kl, "agreement": 0.7, "mlm_accuracy": 0.4, "mlm_loss": 3.0} | counts

    models = [model("homodistil", seed, kl) for seed, kl in enumerate((0.49, 0.51))]
    models += [model("one_shot", seed, kl) for seed, kl in enumerate(kls)]
    machine = {"processor": "a processor", "num_cores": 2, "num_threads": 1}
    facts = {"sweep": "s", "arms": ["homodistil", "one_shot"], "mask_seed": 1, "num_chosen_on": 256}
    (tmp_path / "held_out.json").write_text(json.dumps(facts | {"machine": machine, "models": models}))
    lines = page_lines(monkeypatch, tmp_path)
    row = f"| `one_shot` − `homodistil` | {words} | 0.000 ± 0.000 (2) | 0.000 ± 0.000 (2) | 0.000 ± 0.000 (2) |"
    assert row in lines
    assert "| homodistil | 0.500 ± 0.014 (2) | 0.700 ± 0.000 (2) | 0.400 ± 0.000 (2) | 3.000 ± 0.000 (2) |" in lines


def test_without_it_the_page_says_nothing(monkeypatch, tmp_path):
    assert page_lines(monkeypatch, tmp_path) == []
