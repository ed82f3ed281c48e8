"""One cell of a sweep: trained to its end from wherever it is, and everything about it in its record."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from run_traces import Interrupt
from tiny_files import own_cache, write_config, write_text
from transformers import BertForMaskedLM

from benchmarks.sweep import training
from benchmarks.sweep.cells import Cell, read_sweep, select_cells
from benchmarks.sweep.folder import SweepFolder, read_record, state_of
from benchmarks.sweep.training import run_cell, run_settings, setting_names
from homodistil_hf import HomoDistilTrainer
from homodistil_hf.files.checkpoints import sorted_checkpoints
from homodistil_hf.runs.student import make_trainer

PAPER = Path(__file__).parents[3] / "examples" / "sweeps" / "paper"
NUM_STEPS = 12
SAME_EVERY_TIME = (
    "evaluation",
    "teacher_evaluation",
    "evaluations",
    "kept_fractions",
    "plan",
    "models",
    "num_tokens",
    "digest",
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("text and teacher")
    write_text(folder / "other.txt", seed=2)
    evaluated = {"eval_strategy": "steps", "eval_steps": 6, "eval_on_start": True, "max_eval_blocks": 16}
    path = write_config(folder, eval_data=[str(folder / "eval.txt"), str(folder / "other.txt")], seed=3, **evaluated)
    values = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in values.items() if name != "output_dir"}


def cell_of(settings: dict[str, Any], method: str = "homodistil", **changes: Any) -> Cell:
    return Cell("mine", {"seed": 3}, method, settings | changes)


def run(cell: Cell, root: Path, evaluate: Any = None) -> dict[str, Any]:
    folder = SweepFolder(root)
    run_cell(cell, folder, evaluate or {}, lambda line: None)
    record = read_record(folder.record(cell))
    assert record is not None
    return record


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    """Record and folder of a cell that nobody interrupted."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        own_cache(monkeypatch, root / "cache")
        return run(cell_of(settings), root), root


@pytest.mark.slow
def test_a_record_tells_everything(whole, settings):
    record, root = whole
    assert record["status"] == "done"
    assert (record["cell"], record["variant"], record["axes"]) == ("mine,seed=3", "mine", {"seed": 3})
    assert (record["num_steps"], record["num_tokens"]) == (NUM_STEPS, NUM_STEPS * 8 * 16)
    assert record["plan"] == settings["student"]
    assert [row["step"] for row in record["evaluations"]] == [0, 6, 12]
    assert record["evaluations"][0]["kl"] == 0
    assert record["evaluations"][-1]["kl"] == pytest.approx(record["evaluation"]["kl"], rel=1e-5)
    until_4, until_12 = record["kept_fractions"]
    assert until_4 == {"step": 4, "hidden": 1.0, "attention": 1.0, "ffn": 1.0}
    assert until_12 == {"step": 12, "hidden": 0.5, "attention": 0.5, "ffn": 0.5}
    assert record["teacher_evaluation"]["kl"] == 0
    defaults = {"pruning_end_fraction": 0.3, "mlm_probability": 0.3, "adam_beta2": 0.98, "max_bad_steps": 20}
    assert defaults.items() <= record["own_settings"].items()
    assert record["own_settings"]["learning_rate"] > 0  # that of the run, where none is given
    assert record["own_settings"].keys().isdisjoint({"overwrite_output_dir", "weight_decay"})
    assert record["seconds"] >= record["evaluation_seconds"] >= 0  # tenths of a second
    assert record["num_sessions"] == 1
    assert record["machine"]["versions"]["torch"]
    student = BertForMaskedLM.from_pretrained(root / "mine,seed=3" / "student")
    assert record["models"]["student"]["num_parameters"] == student.num_parameters()
    assert sorted_checkpoints(root / "mine,seed=3") == []


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, NUM_STEPS])
def test_a_killed_cell_ends_with_the_same_numbers(whole, settings, tmp_path, monkeypatch, step):
    def interrupted(*args: Any, **kwargs: Any) -> HomoDistilTrainer:
        trainer = make_trainer(*args, **kwargs)
        trainer.add_callback(Interrupt(step))
        return trainer

    cell, folder = cell_of(settings), SweepFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(training, "make_trainer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(cell, tmp_path)
    assert state_of(cell, folder, {}) == "stopped"
    record = run(cell, tmp_path)
    assert {name: record[name] for name in SAME_EVERY_TIME} == {name: whole[0][name] for name in SAME_EVERY_TIME}
    assert record["num_sessions"] == 2
    assert state_of(cell, folder, {}) == "done"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), [("homobert", "homobert-tiny"), ("ablations", "magnitude")])
def test_the_papers_sweeps_run_with_a_tiny_teacher(settings, tmp_path, name, variant):
    sweep = read_sweep(PAPER / f"{name}.json", setting_names() - {"method"})
    assert "Not run here" in sweep.description
    (cell,) = select_cells(sweep.cells, [variant])
    recipe = run_settings(cell, "runs/checked", bf16=False, use_cpu=True).training
    assert recipe.max_steps == 28_000
    assert recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps == 4096
    assert (recipe.learning_rate, recipe.adam_epsilon, recipe.student) == (6e-4, 1e-6, "homobert-tiny")
    substitutes = {key: settings[key] for key in ("teacher", "train_data", "eval_data", "max_seq_length", "use_cpu")}
    substitutes |= {"student": "macs=0.5", "max_steps": 2, "bf16": False, "preprocessing_num_workers": 1}
    substitutes |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_eval_blocks": 8}
    substitutes |= {"dataloader_num_workers": 0, "pruning_interval_steps": 1}
    record = run(dataclasses.replace(cell, settings={**cell.settings, **substitutes}), tmp_path)
    assert (record["num_steps"], record["num_tokens"]) == (2, 2 * 8 * 16)
    assert record["models"]["student"]["encoder_macs"] < record["models"]["teacher"]["encoder_macs"]
