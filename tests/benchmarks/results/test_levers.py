"""What the page of results says of levers that were left out: which figures, from where, and what they mean."""

import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
from sweep_records import add_record

from homodistil_hf.experiments.sweep.cells import Cell
from homodistil_hf.experiments.sweep.folder import read_records, record_head, trained, write_record

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
VERSIONS = {"homodistil_hf": "1", "python": "3", "torch": "2", "transformers": "5"}
MACHINE = {"processor": "a processor", "num_cores": 2, "num_threads": 1, "versions": VERSIONS}
OLDER_MACHINE = {"processor": "an older one", "num_cores": 2, "num_threads": 1, **VERSIONS}
CONFIG = {"student": "8-2x4-16", "output_dir": "runs/some_config", "max_eval_blocks": 7, "seed": 3}
PLAN = {"hidden_size": 8, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 16}


@pytest.fixture
def lines_of(monkeypatch) -> Any:
    """Lines of the section, with a noise of one degree of freedom whose threshold is 12.706 × std."""
    sections = runpy.run_path(str(BENCHMARKS / "results" / "levers.py"))["lever_sections"]
    noise_class = runpy.run_path(str(BENCHMARKS / "results" / "verdicts.py"))["Noise"]

    def lines(folder: Path, std: float | None = None) -> list[str]:
        return "\n".join(sections(folder, noise_class(std, 1))).splitlines()

    return lines


def write_run(folder: Path, arm: str, kl: float, accuracy: float, seed: int = 0, **changes: Any) -> None:
    settings = {"seed": seed, "per_device_train_batch_size": 4, "max_seq_length": 32}
    cell = Cell(arm, {"seed": seed}, "homodistil", settings)
    record = {
        "status": "done",
        "plan": PLAN,
        "evaluation": {"kl": kl, "mlm_accuracy": accuracy, "mlm_loss": 9.0},
        "teacher_evaluation": {"kl": 0.0, "mlm_accuracy": 0.9, "mlm_loss": 8.0},
        "num_steps": 1500,
        "machine": MACHINE,
        "evaluations": [{"step": 0, "kl": 7.0}],
    }
    record = record_head(cell) | record | changes
    if folder.name == "left_out":
        write_record(folder / f"{cell.name}.json", record)
    else:
        add_record(folder, record)


def test_without_files_there_is_no_section(lines_of, tmp_path):
    write_run(tmp_path / "ablations", "homodistil", 0.5, 0.4)
    write_run(tmp_path / "left_out", "scratch_at_a_half", 0.5, 0.4)
    assert lines_of(tmp_path) == []


def test_arms_stand_beside_the_ablations_run_of_the_same_seed(lines_of, tmp_path):
    """A single difference counts beyond 12.706 × 0.001 nats."""
    write_run(tmp_path / "ablations", "homodistil", 0.5, 0.4)
    write_run(tmp_path / "ablations", "relative_12", 5.0, 0.1)
    write_run(tmp_path / "left_out", "homodistil", 4.0, 0.2)
    write_run(tmp_path / "left_out", "relative_12", 0.488, 0.41)
    write_run(tmp_path / "left_out", "paced_rate", 0.513, 0.39)
    write_run(tmp_path / "left_out", "unmasked_kl", 0.487, 0.42)
    write_run(tmp_path / "left_out", "together", 0.6, 0.3, seed=1)
    write_run(tmp_path / "left_out", "scratch_at_a_half", 3.0, 0.05)
    write_run(tmp_path / "left_out", "rewound_rate", 0.1, 0.9, status="failed", error="x")
    lines = lines_of(tmp_path, std=0.001)
    start = lines.index("| homodistil | the ablations' own | 0.500 | 0.400 | – | – |")
    names, figures = zip(
        *((line.split(" | ")[0], line.split(" | ", 2)[2]) for line in lines[start + 1 : start + 5]), strict=True
    )
    assert names == ("| relative_12", "| unmasked_kl", "| paced_rate", "| together")
    assert figures == (
        "0.488 | 0.410 | -0.012 | within noise |",
        "0.487 | 0.420 | -0.013 | nearer |",
        "0.513 | 0.390 | +0.013 | farther |",
        "0.600 | 0.300 | – | – |",
    )
    assert lines[start + 5] == ""
    assert "A difference counts beyond 0.013 nats (see above)." in lines
    assert any(line.startswith("1,500 steps of 4 × 32, shape `8-2x4-16`, seed 0 and seed 1. ") for line in lines)
    assert any("--only relative_12 unmasked_kl paced_rate`, at commit 10d8738" in line for line in lines)
    assert any(line.endswith("their settings are in their records: `together`.") for line in lines)


def test_without_a_noise_nothing_is_decided(lines_of, tmp_path):
    write_run(tmp_path / "ablations", "homodistil", 0.5, 0.4)
    write_run(tmp_path / "left_out", "unmasked_kl", 1.5, 0.4)
    lines = lines_of(tmp_path)
    assert "| unmasked_kl | KL at 15 % of the unmasked tokens too | 1.500 | 0.400 | +1.000 | undecided |" in lines
    assert not any("counts beyond" in line for line in lines)


def curve(eval_kl: list[float], accuracy: list[float], loss_kl: list[float]) -> dict[str, list[float]]:
    return {"eval_kl": eval_kl, "eval_mlm_accuracy": accuracy, "loss_kl": loss_kl, "num_guard_pauses": [9.0] * 4}


def compensation() -> dict[str, Any]:
    rows = [
        {"pruned": "all", "ridge": None, "kl": 5.0, "mlm_loss": 8.0, "mlm_accuracy": 0.1, "cpu_seconds": 6.0},
        {"pruned": "all", "ridge": 0.5, "kl": 3.0, "mlm_loss": 7.0, "mlm_accuracy": 0.2, "cpu_seconds": 6.0},
        {"pruned": "ffn", "ridge": None, "kl": 1.0, "mlm_loss": 6.0, "mlm_accuracy": 0.3, "cpu_seconds": 6.0},
        {"pruned": "ffn", "ridge": 0.5, "kl": 0.75, "mlm_loss": 5.0, "mlm_accuracy": 0.4, "cpu_seconds": 6.0},
    ]
    runs = {
        "homodistil": curve([2.0, 1.0], [0.30, 0.35], [1.6, 1.4, 1.3, 1.2]),
        "homodistil compensated (stopped)": curve([1.5], [0.29], [1.1, 1.2, 1.5]),
        "one_shot": curve([3.0, 2.0], [0.20, 0.25], [2.6, 2.4, 2.3, 2.2]),
    }
    settings = {"max_steps": 40, "logging_steps": 10, "eval_steps": 20}
    cut = {"config": CONFIG, "machine": OLDER_MACHINE, "num_blocks": 5, "rows": rows}
    return {"prune": cut, "curves": {"settings": settings, "runs": runs}}


def write_compensation(folder: Path, *names: str) -> None:
    content = {name: value for name, value in compensation().items() if name in names}
    (folder / "compensation.json").write_text(json.dumps(content))


def test_folding_stands_beside_the_same_cut_without_it(lines_of, tmp_path):
    write_compensation(tmp_path, "prune")
    lines = lines_of(tmp_path)
    start = lines.index("| all | not folded | 5.000 | 0.100 | – |")
    assert lines[start + 1 : start + 4] == [
        "| all | folded, ridge 0.5 | 3.000 | 0.200 | -2.000 |",
        "| ffn | not folded | 1.000 | 0.300 | – |",
        "| ffn | folded, ridge 0.5 | 0.750 | 0.400 | -0.250 |",
    ]
    command = "python -m benchmarks.results.compensation prune examples/configs/some_config.json --settings"
    assert f"`{command} 'student=\"8-2x4-16\"'`" in lines
    assert any("to `8-2x4-16`, without training, on 5 held-out blocks" in line for line in lines)
    assert not any("compensation.py train" in line for line in lines)
    assert sum(line.startswith("Machine: an older one, 1 thread(s) of 2 cores; ") for line in lines) == 1


def test_folding_is_told_at_every_step_that_both_runs_have(lines_of, tmp_path):
    write_compensation(tmp_path, "prune", "curves")
    lines = lines_of(tmp_path)
    empty = "| – | – | – | – | – | – |"
    start = lines.index(f"| homodistil | 10 {empty} 1.100 | 1.600 | -0.500 |")
    assert lines[start + 1 : start + 3] == [
        "| homodistil | 20 | 1.500 | 2.000 | -0.500 | 0.290 | 0.300 | -0.010 | 1.200 | 1.400 | -0.200 |",
        f"| homodistil | 30 {empty} 1.500 | 1.300 | +0.200 |",
    ]
    assert len(lines) == start + 3
    (text,) = [line for line in lines if line.startswith("Along training")]
    assert text.endswith("*homodistil compensated (stopped)*: its last figure is of step 30 of 40, its end not known.")
    settings = "max_steps=40 logging_steps=10 eval_steps=20 'student=\"8-2x4-16\"'"
    assert any(line.endswith(f"some_config.json --settings {settings}` with `--arm homodistil`") for line in lines)


def test_curves_without_a_pair_say_nothing(lines_of, tmp_path):
    content = compensation()["curves"]
    del content["runs"]["homodistil"]
    (tmp_path / "compensation.json").write_text(json.dumps({"curves": content}))
    assert lines_of(tmp_path) == []


def rotated_cell(kl: float, accuracy: float, hidden_size: int) -> dict[str, Any]:
    evaluation = {"eval_kl": kl, "eval_mlm_accuracy": accuracy, "eval_mlm_loss": 9.0, "eval_loss": 8.0}
    return {"plan": PLAN | {"hidden_size": hidden_size}, "num_scoring_batches": 6, "evaluation": evaluation}


def test_rotated_heads_stand_beside_the_teachers_own(lines_of, tmp_path):
    pruned = {
        "heads alone": {"rotated": rotated_cell(0.5, 0.4, 16), "as trained": rotated_cell(1.5, 0.25, 16)},
        "all": {"as trained": rotated_cell(5.0, 0.1, 8), "rotated": rotated_cell(4.5, 0.125, 8)},
    }
    content = {"config": CONFIG, "machine": OLDER_MACHINE, "pruned": pruned}
    (tmp_path / "rotation.json").write_text(json.dumps(content))
    lines = lines_of(tmp_path)
    start = lines.index("| heads alone: `16-2x4-16` | as trained | 1.500 | 0.250 | – |")
    assert lines[start + 1 : start + 4] == [
        "| heads alone: `16-2x4-16` | rotated | 0.500 | 0.400 | -1.000 |",
        "| all: `8-2x4-16` | as trained | 5.000 | 0.100 | – |",
        "| all: `8-2x4-16` | rotated | 4.500 | 0.125 | -0.500 |",
    ]
    assert any('some_config.json --num_scoring_batches 6`, with `"8-2x4-16"`' in line for line in lines)
    assert any("by scores of 6 batches, on 7 held-out blocks, seed 3" in line for line in lines)


def test_the_page_in_the_repository_is_of_the_records_beside_it(monkeypatch):
    folder = BENCHMARKS.parent / "docs" / "results"
    quarter = trained(read_records(folder / "methods_quarter.jsonl"))
    noise = runpy.run_path(str(BENCHMARKS / "results" / "verdicts.py"))["noise_of"](quarter)
    assert math.isfinite(noise.threshold())
    (section,) = runpy.run_path(str(BENCHMARKS / "results" / "levers.py"))["lever_sections"](folder, noise)
    page = (folder.parent / "results.md").read_text(encoding="utf-8")
    assert section in page
    assert f"A difference counts beyond {noise.threshold():.3f} nats (see above)." in page.split(section)[0]
