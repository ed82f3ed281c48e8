"""Students on the way: exported with exactly their widths, evaluated, and the same again after a resume."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_traces import Interrupt, SaveAt, assert_same_run, differences, logs_of, state_of
from tiny_files import own_cache, write_config, write_teacher, write_text
from tiny_models import make_blocks
from transformers import BertForMaskedLM, TrainerCallback

from homodistil_hf import HomoDistilTrainer, OneShotTrainer
from homodistil_hf.cli import main
from homodistil_hf.experiments.config import parse_run
from homodistil_hf.export.facts import read_facts
from homodistil_hf.models.cost import COSTS
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.training.snapshots import SNAPSHOTS_FILE

EXAMPLE = Path(__file__).parents[2] / "examples" / "configs" / "family.json"
WIDE = {"hidden_size": 24, "num_attention_heads": 3, "head_dim": 8, "intermediate_size": 44}
NARROW = {"hidden_size": 20, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 36}
SETTINGS: dict[str, Any] = {
    "max_steps": 16,
    "pruning_end_fraction": 0.75,
    "pruning_interval_steps": 1,
    "width_multiple": 1,
    "compaction_threshold": 0.4,
    "snapshots": [NARROW, WIDE],
    "snapshot_recovery_steps": 2,
    "student_dropout": 0.1,
    "logging_steps": 3,
}
WIDE_NAME, NARROW_NAME = "hidden-24-heads-3x8-ffn-44", "hidden-20-heads-2x8-ffn-36"
REACHED = {WIDE_NAME: 2, NARROW_NAME: 9}
TAKEN = {name: step + 2 for name, step in REACHED.items()}


class Watch(TrainerCallback):
    """Remembers the kept widths after every step, and the student's logits at some of them."""

    def __init__(self, *steps: int):
        self.steps, self.plans, self.logits, self.trainer = steps, {}, {}, None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.plans[state.global_step] = self.trainer.pruner.kept.to_dict()
        if state.global_step in self.steps:
            self.trainer.model.eval()
            with torch.no_grad():
                self.logits[state.global_step] = self.trainer.model(**probe()).logits


def probe() -> dict[str, torch.Tensor]:
    rows = torch.tensor(make_blocks(4, seed=5)["input_ids"])
    return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}


def watched(make_trainer: Callable[..., HomoDistilTrainer], *steps: int, **settings: Any) -> tuple[Any, Watch]:
    watch = Watch(*steps)
    trainer = make_trainer(callbacks=[watch], **SETTINGS | settings)
    watch.trainer = trainer
    trainer.train()
    return trainer, watch


def table_of(run: Path) -> list[dict[str, Any]]:
    return json.loads((run / SNAPSHOTS_FILE).read_text())


def files_of(run: Path) -> dict[str, bytes]:
    """Every file of every snapshot, and the table."""
    paths = [run / SNAPSHOTS_FILE, *(run / "snapshots").rglob("*")]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths if path.is_file()}


@pytest.mark.slow
def test_each_snapshot_is_the_student_at_exactly_its_widths(make_trainer, tmp_path):
    trainer, watch = watched(make_trainer, *TAKEN.values())
    run = tmp_path / "run"
    for name, plan in ((WIDE_NAME, WIDE), (NARROW_NAME, NARROW)):
        reached, taken = REACHED[name], TAKEN[name]
        assert watch.plans[reached - 1] != plan
        assert [watch.plans[step] for step in range(reached, taken + 1)] == [plan] * 3
        assert watch.plans[taken + 1] != plan
        folder = run / "snapshots" / name
        assert (folder / "tokenizer.json").is_file()
        facts = read_facts(folder)
        forms = facts["forms"].get("compact", facts["student"])
        assert forms["plan"] == plan
        assert (facts["training"]["snapshot"], facts["training"]["num_steps"]) == (name, taken)
        student = BertForMaskedLM.from_pretrained(folder).eval()
        with torch.no_grad():
            logits = student(**probe()).logits
        assert float((logits - watch.logits[taken]).abs().max()) <= 1e-5 * max(1.0, float(logits.abs().max()))
    assert trainer.pruner.plan_reached
    assert watch.plans[12] == trainer.plan.to_dict()


@pytest.mark.slow
def test_the_table_tells_what_was_logged_and_exported(make_trainer, tmp_path):
    trainer, _ = watched(make_trainer)
    rows = table_of(tmp_path / "run")
    assert rows == trainer.snapshot_rows
    assert [(row["name"], row["step"], row["plan"]) for row in rows] == [
        (WIDE_NAME, TAKEN[WIDE_NAME], WIDE),
        (NARROW_NAME, TAKEN[NARROW_NAME], NARROW),
    ]
    evaluations = {entry["step"]: entry for entry in logs_of(trainer) if "eval_kl" in entry}
    assert sorted(evaluations) == sorted(TAKEN.values())
    for row in rows:
        facts = read_facts(tmp_path / "run" / row["folder"])
        assert {name: row[name] for name in COSTS} == {name: facts["student"][name] for name in COSTS}
        assert row["evaluation"] == facts["evaluation"]
        for name in ("kl", "mlm_loss", "mlm_accuracy"):
            assert row["evaluation"][name] == evaluations[row["step"]][f"eval_{name}"]


@pytest.mark.slow
def test_a_resumed_run_makes_the_same_family(make_trainer, tmp_path):
    """From before, within and after a rest; at the very step of a snapshot; between the two and after both."""
    points = (1, 3, 4, 10, 13)
    whole = make_trainer(callbacks=[SaveAt(*points)], **SETTINGS)
    whole.train()
    for step in points:
        run = tmp_path / f"from-{step}"
        resumed = make_trainer(output_dir=str(run), **SETTINGS)
        resumed.train(str(tmp_path / "run" / f"checkpoint-{step}"))
        assert_same_run(resumed, whole)
        assert resumed.snapshot_rows == whole.snapshot_rows
        made = {name: content for name, content in files_of(tmp_path / "run").items() if name in files_of(run)}
        assert files_of(run) == made
        assert len(list((run / "snapshots").glob("hidden-*"))) == sum(taken > step for taken in TAKEN.values())


@pytest.mark.slow
def test_killed_in_the_middle_of_a_snapshot(make_trainer, tmp_path, monkeypatch):
    """Before the export, after it, before the table: each time the run comes by again, and nothing is there twice."""
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **SETTINGS)
    whole.train()

    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    checkpoint = None
    places = ("training.publishing.export_student", "export.export_folder.publish", "training.snapshots.write_json")
    for place in places:
        killed = make_trainer(callbacks=[SaveAt(3)], **SETTINGS)
        with monkeypatch.context() as patched:
            patched.setattr(f"homodistil_hf.{place}", stop)
            with pytest.raises(KeyboardInterrupt):
                killed.train(checkpoint)
        assert killed.state.global_step == TAKEN[WIDE_NAME]
        assert not (tmp_path / "run" / SNAPSHOTS_FILE).exists()
        checkpoint = "last"
    resumed = make_trainer(**SETTINGS)
    resumed.train("last")
    assert_same_run(resumed, whole)
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_run_from_an_older_checkpoint_has_no_rows_of_later_ones(make_trainer, tmp_path):
    make_trainer(callbacks=[SaveAt(5)], **SETTINGS).train()
    assert len(table_of(tmp_path / "run")) == 2
    resumed = make_trainer(callbacks=[Interrupt(6)], **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        resumed.train("last")
    assert [row["name"] for row in table_of(tmp_path / "run")] == [WIDE_NAME]


@pytest.mark.slow
def test_looking_at_the_student_leaves_no_trace_in_the_run(make_trainer, tmp_path, monkeypatch):
    looked = make_trainer(output_dir=str(tmp_path / "looked"), **SETTINGS | {"max_steps": 12})
    looked.train()
    monkeypatch.setattr(HomoDistilTrainer, "look_back", lambda self: None)
    passed = make_trainer(**SETTINGS | {"max_steps": 12})
    passed.train()
    assert looked.snapshot_rows
    assert not passed.snapshot_rows
    assert differences(state_of(looked), state_of(passed)) == []


@pytest.mark.slow
def test_without_evaluation_data_snapshots_are_exported_alone(make_trainer, tmp_path):
    trainer, _ = watched(make_trainer, eval_dataset=None, snapshot_recovery_steps=0, max_steps=8)
    rows = table_of(tmp_path / "run")
    assert [row["evaluation"] for row in rows] == [{}, {}]
    assert not [entry for entry in logs_of(trainer) if "eval_kl" in entry]


@pytest.mark.slow
def test_layers_of_a_global_run_share_out_a_snapshots_totals(make_trainer, tmp_path):
    settings = {"width_allocation": "global", "max_steps": 10, "snapshots": WIDE, "snapshot_recovery_steps": 0}
    trainer, _ = watched(make_trainer, **settings)
    (row,) = table_of(tmp_path / "run")
    plan = WidthPlan.from_dict(row["plan"], 2)
    assert plan.hidden_size == 24
    assert sum(layer.intermediate_size for layer in plan.layers) == 88
    assert sum(layer.num_attention_heads for layer in plan.layers) == 6
    facts = read_facts(tmp_path / "run" / row["folder"])
    assert facts["forms"].get("compact", facts["student"])["plan"] == row["plan"]
    assert trainer.pruner.plan_reached


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"snapshots": [WIDE | {"head_dim": 4}]},
            "has head_dim=4, narrower than the student with 8; .*nearest",
        ),
        ({"snapshots": [WIDE, WIDE]}, "has the widths of snapshots .* drop one of them"),
        ({"snapshots": ["macs=2"]}, "snapshots: .*macs=2"),
        ({"snapshots": WIDE, "snapshot_recovery_steps": 12}, "snapshot_recovery_steps=12 with 1 snapshots .*=10$"),
    ],
)
def test_snapshots_that_can_not_be_passed_are_refused_when_the_trainer_is_made(make_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**SETTINGS | settings)


def test_a_folder_that_holds_something_else_is_not_replaced(make_trainer, tmp_path):
    folder = tmp_path / "run" / "snapshots" / WIDE_NAME
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no export"):
        make_trainer(**SETTINGS)


def test_one_shot_pruning_passes_no_snapshots(make_trainer):
    with pytest.raises(ValueError, match="snapshots=.* are passed by method='homodistil' only; drop them"):
        make_trainer(trainer_class=OneShotTrainer, **SETTINGS)


@pytest.mark.slow
def test_a_checkpoint_of_a_run_with_other_snapshots_is_refused(make_trainer, tmp_path):
    make_trainer(callbacks=[SaveAt(3)], **SETTINGS | {"max_steps": 8, "snapshot_recovery_steps": 0}).train()
    other = make_trainer(**SETTINGS | {"snapshots": WIDE, "max_steps": 8, "snapshot_recovery_steps": 0})
    with pytest.raises(ValueError, match="snapshots .* differ from the checkpoint's .*; resume with those"):
        other.train("last")


# The command line


@pytest.mark.slow
def test_the_example_tells_and_stores_its_family(tmp_path, monkeypatch, capsys):
    own_cache(monkeypatch, tmp_path / "cache")
    write_teacher(tmp_path / "teacher", hidden_size=128, num_attention_heads=2, intermediate_size=512)
    run = tmp_path / "run"
    substitutes = {
        "teacher": tmp_path / "teacher",
        "train_data": write_text(tmp_path / "train.txt"),
        "eval_data": write_text(tmp_path / "eval.txt", seed=1),
        "output_dir": run,
        "max_seq_length": 16,
        "max_steps": 24,
        "snapshot_recovery_steps": 2,
        "per_device_train_batch_size": 2,
    }
    words = [word for name, value in substitutes.items() for word in (f"--{name}", str(value))]
    assert main(["distill", str(EXAMPLE), *words, "--use_cpu"]) == 0
    printed = capsys.readouterr().out
    rows = table_of(run)
    names = ["macs-0.75", "macs-0.5"]
    assert [row["name"] for row in rows] == names
    results = json.loads((run / "results.json").read_text())
    assert [model["name"] for model in results["models"]] == ["teacher", *names, "student"]
    assert [model["kl"] for model in results["models"][1:3]] == [row["evaluation"]["kl"] for row in rows]
    assert results["snapshots"] == [f"snapshots/{name}" for name in names]
    assert results["settings"]["snapshots"] == ["macs=0.75", "macs=0.5"]
    assert "\nStudents on the way, loaded alike:\n" in printed
    assert all(f"\n{name} " in printed and f"\n  {run}/snapshots/{name}\n" in printed for name in names)


def test_snapshots_are_given_in_every_way(tmp_path):
    config = write_config(tmp_path, snapshots=["macs=0.5", WIDE])
    assert parse_run([str(config)]).training.snapshots == ["macs=0.5", json.dumps(WIDE)]
    flags = ["--snapshots", "macs=0.6", "macs=0.5"]
    assert parse_run([str(config), *flags]).training.snapshots == ["macs=0.6", "macs=0.5"]
    assert parse_run([str(write_config(tmp_path, snapshots="macs=0.5"))]).training.snapshots == ["macs=0.5"]
    assert parse_run([str(write_config(tmp_path, snapshots=WIDE))]).training.snapshots == [json.dumps(WIDE)]
