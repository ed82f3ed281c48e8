"""What a run is resumed from: checkpoints are complete or absent. That it goes on exactly: `test_resuming.py`."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from run_traces import (
    AFTER,
    BEFORE,
    EVERY_SECOND_STEP,
    NARROWER,
    STEP_BY_STEP,
    WIDER,
    Interrupt,
    SaveAt,
    assert_same_run,
    differences,
    logs_of,
    state_of,
)
from safetensors.torch import load_file
from tiny_models import GRADUAL, make_blocks
from transformers import AutoModelForMaskedLM

from homodistil_hf.files.checkpoints import (
    PROJECTIONS_FILE,
    SCORES_FILE,
    last_checkpoint,
)
from homodistil_hf.files.folders import TRIAL_SUFFIX
from homodistil_hf.models.saved_student import read_state
from homodistil_hf.models.widths import widths_of
from homodistil_hf.runs.kinds import trainer_named
from homodistil_hf.training.run_folder import check_not_read, check_output_dir, existing_files

pytestmark = pytest.mark.slow


def checkpoint(tmp_path: Path, step: int) -> str:
    return str(tmp_path / "run" / f"checkpoint-{step}")


def test_nothing_is_written_through_links_in_a_strangers_run(make_trainer, tmp_path):
    home, run = tmp_path / "home", tmp_path / "run"
    (home / "mine").mkdir(parents=True)
    run.mkdir()
    trainer = make_trainer(max_steps=1, save_strategy="steps", save_steps=1)
    (run / ".staging").symlink_to(home)
    trainer.train()
    assert [path.name for path in home.rglob("*")] == ["mine"]


@pytest.mark.parametrize(
    "length",
    [
        {},
        {"max_steps": -1, "num_train_epochs": 2},
        {"train_dataset": make_blocks(21), "max_steps": -1, "num_train_epochs": 2.5},
        {"train_dataset": make_blocks(21).to_iterable_dataset(num_shards=3)},
    ],
)
def test_a_finished_run_takes_no_further_step(make_trainer, trained, length):
    """As after a kill in its export."""
    settings = STEP_BY_STEP | {"save_strategy": "steps", "save_steps": 4} | length
    whole = trained(**settings)
    resumed = make_trainer(**settings)
    resumed.train("last")
    assert resumed.state.global_step == whole.state.max_steps
    assert_same_run(resumed, whole)


def test_resumed_with_other_data_loader_workers(make_trainer, trained, tmp_path):
    settings = STEP_BY_STEP | {"per_device_train_batch_size": 13, "student_dropout": 0.1}
    whole = trained(callbacks=[SaveAt(NARROWER)], **settings)
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), dataloader_num_workers=1, **settings)
    resumed.train(checkpoint(tmp_path, NARROWER))
    assert_same_run(resumed, whole)


def test_a_second_train_in_one_process_goes_back_to_wider_students(trained, tmp_path):
    trainer = trained(callbacks=[SaveAt(BEFORE, WIDER)], **STEP_BY_STEP)
    state, logs = state_of(trainer), logs_of(trainer)
    for step in (WIDER, BEFORE):
        trainer.train(checkpoint(tmp_path, step))
        assert differences(state_of(trainer), state) == []
        assert logs_of(trainer) == logs


def test_train_loss_of_a_resumed_run(make_trainer, tmp_path):
    whole = make_trainer(callbacks=[SaveAt(6)], **STEP_BY_STEP)
    expected = whole.train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **STEP_BY_STEP)
    found = resumed.train(checkpoint(tmp_path, 6))
    assert found.training_loss == expected.training_loss
    assert found.metrics["train_loss"] == expected.metrics["train_loss"]


@pytest.mark.parametrize("asked", ["last", True])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(make_trainer, trained, tmp_path, asked):
    settings = STEP_BY_STEP | {"save_strategy": "steps", "save_steps": 4}
    whole = trained(output_dir=str(tmp_path / "whole"), **settings)
    with pytest.raises(KeyboardInterrupt):
        make_trainer(callbacks=[Interrupt(10)], **settings).train()
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-8"
    resumed = make_trainer(**settings)
    resumed.train(asked)
    assert_same_run(resumed, whole)


def test_a_staging_folder_of_a_killed_process_is_no_earlier_run(trained, tmp_path):
    (tmp_path / "run" / ".staging" / "checkpoint-4").mkdir(parents=True)
    trained(max_steps=2, save_strategy="steps", save_steps=2)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-2", "trainer_state.json"]


def test_checkpoints_that_can_not_be_resumed_are_refused(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2)
    with pytest.raises(
        ValueError, match="resume_from_checkpoint='last' asks for the last checkpoint, but .* has none"
    ):
        trainer.train("last")
    with pytest.raises(ValueError, match="checkpoint-7' can't be used: there is no such folder"):
        trainer.train(checkpoint(tmp_path, 7))
    make_trainer(max_steps=2, save_only_model=True, callbacks=[SaveAt(1)]).train()
    with pytest.raises(ValueError, match="has no optimizer.pt, as it was saved with save_only_model=True"):
        make_trainer(max_steps=2).train(checkpoint(tmp_path, 1))
    make_trainer(max_steps=2, callbacks=[SaveAt(1)], overwrite_output_dir=True).train()
    message = "^checkpoint .*checkpoint-1 is of student plan=.*, this run of .*; resume with the same student"
    with pytest.raises(ValueError, match=message):
        make_trainer(max_steps=2, student="macs=0.5").train(checkpoint(tmp_path, 1))


@pytest.mark.parametrize(
    ("method", "other"),
    [
        ("homodistil", {"importance_metric": "magnitude", "num_scoring_batches": 16}),
        ("one_shot", {"student": "macs=0.5"}),
    ],
)
def test_a_refused_checkpoint_leaves_the_trainer_as_it_was(make_trainer, tmp_path, method, other):
    settings = {"trainer_class": trainer_named(method), "max_steps": 4}
    settings |= GRADUAL | {"pruning_end_fraction": 0.5} if method == "homodistil" else {}
    make_trainer(callbacks=[SaveAt(3)], **settings).train()
    refused, fresh = (make_trainer(output_dir=str(tmp_path / name), **settings | other) for name in ("one", "other"))
    with pytest.raises(ValueError, match="^importance_metric=|^checkpoint .* is of (student plan|method)="):
        refused.train(checkpoint(tmp_path, 3))
    assert (refused.kept, refused.is_finished) == (refused.full, False)
    for trainer in (refused, fresh):
        trainer.train()
        assert trainer.kept == trainer.plan
    assert_same_run(refused, fresh)


# What checkpoints are good for besides


@pytest.mark.parametrize("step", [NARROWER, WIDER, AFTER])
def test_checkpoints_load_as_any_model(make_trainer, tmp_path, step):
    trainer = make_trainer(callbacks=[SaveAt(step), Interrupt(step + 1)], **STEP_BY_STEP)
    input_ids = torch.tensor(make_blocks(4)["input_ids"])
    logits = {}

    class Remember(SaveAt):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            with torch.no_grad():
                logits["in memory"] = trainer.model.eval()(input_ids).logits

    trainer.add_callback(Remember())
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    loaded = AutoModelForMaskedLM.from_pretrained(checkpoint(tmp_path, step)).eval()
    assert type(loaded) is type(trainer.model)
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids).logits, logits["in memory"], rtol=0.0, atol=1e-5)
    assert loaded.config.hidden_size == {NARROWER: 18, WIDER: 26, AFTER: 16}[step]


BEST = STEP_BY_STEP | EVERY_SECOND_STEP | {"metric_for_best_model": "kl", "greater_is_better": False}


def test_the_best_model_is_one_at_the_target_plan_in_a_resumed_run_too(make_trainer, trained, tmp_path):
    trainer = trained(**BEST)
    kl = {entry["step"]: entry["eval_kl"] for entry in logs_of(trainer) if "eval_kl" in entry}
    at_plan = {step: value for step, value in kl.items() if step >= 8}
    assert min(kl, key=kl.get) < 8  # the unpruned student would have won
    best = min(at_plan, key=at_plan.get)
    assert trainer.state.best_model_checkpoint == checkpoint(tmp_path, best)
    logs, metric = logs_of(trainer), trainer.state.best_metric
    assert trainer.evaluate()["eval_kl"] == kl[best]
    assert trainer.kept == trainer.plan
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **BEST)
    resumed.train(checkpoint(tmp_path, 10))
    assert (resumed.state.best_metric, logs_of(resumed)) == (metric, logs)


def test_a_trainer_does_not_remove_the_model_that_it_starts_from(trained, make_trainer, tmp_path):
    trained(max_steps=1).export(tmp_path / "run" / "student")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "student")
    for given in (model, str(tmp_path / "run" / "student")):
        trainer = make_trainer(
            model=given, max_steps=1, student=None, plan=widths_of(model.config), overwrite_output_dir=True
        )
        with pytest.raises(ValueError, match="^model='.*student' is in output_dir=.*where it would be overwritten"):
            trainer.train()
    assert (tmp_path / "run" / "student").is_dir()


def test_a_resumed_run_does_not_evaluate_at_its_start_again(make_trainer, trained, tmp_path):
    settings = {"max_steps": 3, "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 2}
    whole = trained(callbacks=[SaveAt(2)], **settings)
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **settings)
    resumed.train(checkpoint(tmp_path, 2))
    assert logs_of(resumed) == logs_of(whole)
    assert resumed.args.eval_on_start


def test_logs_and_report_of_an_earlier_run_are_in_no_ones_way(make_trainer, tmp_path):
    run = tmp_path / "run"
    make_trainer(max_steps=1).train()
    (run / "report.html").write_text("old")
    assert json.loads((run / "trainer_state.json").read_text())["global_step"] == 1
    make_trainer(max_steps=2).train()
    assert json.loads((run / "trainer_state.json").read_text())["global_step"] == 2
    assert not (run / "report.html").exists()


def test_save_strategy_best_saves_nothing_before_the_plan_is_reached(trained, tmp_path):
    trained(**BEST | {"save_strategy": "best"})
    saved = sorted(int(path.name.removeprefix("checkpoint-")) for path in (tmp_path / "run").glob("checkpoint-*"))
    assert saved
    assert saved[0] >= 8


def test_save_total_limit_keeps_the_newest_and_the_best(trained, tmp_path):
    trainer = trained(**BEST | {"save_total_limit": 2})
    names = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert {"checkpoint-12", Path(trainer.state.best_model_checkpoint).name} <= names
    assert len(names) == 2


def test_a_checkpoint_holds_the_sliced_student_and_no_masks(make_trainer, tmp_path):
    trainer = make_trainer(callbacks=[SaveAt(NARROWER), Interrupt(NARROWER + 1)], **STEP_BY_STEP)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    folder = Path(checkpoint(tmp_path, NARROWER))
    state = read_state(folder)
    assert state.keys() == {
        *("method", "student", "plain", "card", "full", "plan", "is_finished", "kept_heads", "settings", "logs"),
        "teacher_sha256",
        "is_behind_pass",
        "measured",
        "pruner",
    }
    assert state["pruner"].keys() == {"settings", "plan_reached"}
    weights, projections, scores = (
        load_file(folder / name) for name in ("model.safetensors", PROJECTIONS_FILE, SCORES_FILE)
    )
    assert not [name for name in weights if "projections" in name]
    assert len(projections) == 3
    assert weights["bert.embeddings.LayerNorm.weight"].shape == (18,)
    assert {values.dtype for part in (weights, projections, scores) for values in part.values()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["hidden_size"] == 18


# Where a run may write


def test_an_output_folder_is_made(tmp_path):
    folder = tmp_path / "a" / "b"
    assert existing_files(str(folder)) == []
    check_output_dir(str(folder))
    check_output_dir(str(folder))
    for name in ("b.txt", "a.txt"):
        (folder / name).touch()
    assert existing_files(str(folder)) == ["a.txt", "b.txt"]


def test_what_another_rank_tries_to_write_is_no_earlier_file(tmp_path):
    (tmp_path / f"student{TRIAL_SUFFIX}").mkdir()
    assert existing_files(str(tmp_path)) == []


def test_what_can_not_be_written_is_no_output_folder(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "below"):
        message = rf"^output_dir='{re.escape(str(path))}' can't be created \(.*\); name a folder"
        with pytest.raises(ValueError, match=message):
            check_output_dir(str(path))
    assert existing_files(str(file)) == []
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(ValueError, match="^output_dir='.*' can't be written; change its permissions or name another"):
        check_output_dir(str(tmp_path))


def test_a_checkpoint_that_is_read_is_not_removed(trained, tmp_path):
    trained(max_steps=1, save_strategy="steps", save_steps=1)
    checkpoint = tmp_path / "run" / "checkpoint-1"
    with pytest.raises(ValueError, match="^teacher='.*checkpoint-1' is in output_dir=.*where it would be overwritten"):
        check_not_read(str(tmp_path / "run"), {"teacher": str(checkpoint)})


def test_checkpoints_of_a_run_that_was_given_up_are_set_aside(make_trainer, tmp_path, caplog):
    settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2}
    make_trainer(**settings).train()
    make_trainer(**settings | {"max_steps": 4}).train(str(tmp_path / "run" / "checkpoint-2"))
    names = sorted(path.name for path in (tmp_path / "run").glob("*checkpoint-*"))
    assert names == [
        "_abandoned-checkpoint-4",
        "_abandoned-checkpoint-6",
        "_abandoned-checkpoint-8",
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert f"goes on with {tmp_path}" in caplog.text
    assert f"later checkpoints stay as {', '.join(names[:3])}, remove what you don't need" in caplog.text
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-4"


def test_a_run_goes_on_in_an_empty_folder_or_its_own(make_trainer, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 1}
    for name in ("one", "other"):
        make_trainer(output_dir=str(tmp_path / name), **settings).train()
    checkpoint = str(tmp_path / "one" / "checkpoint-4")
    with pytest.raises(ValueError, match="other' is not empty .checkpoint-4.*go on with resume_from_checkpoint=last"):
        make_trainer(output_dir=str(tmp_path / "other"), **settings | {"max_steps": 6}).train(checkpoint)
    assert (tmp_path / "other" / "checkpoint-4").is_dir()
    make_trainer(output_dir=str(tmp_path / "third"), **settings | {"max_steps": 6}).train(checkpoint)
    assert [path.name for path in (tmp_path / "third").glob("checkpoint-*")] == ["checkpoint-6"]


def test_what_is_refused_leaves_the_checkpoints_of_the_folder(make_trainer, tmp_path):
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    for name in ("run", "one"):
        make_trainer(output_dir=str(tmp_path / name), **settings).train()
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    for source, others in (("run", {}), ("one", {"overwrite_output_dir": True})):
        with pytest.raises(ValueError, match="student"):
            make_trainer(student="24-3x8-48", **settings | others).train(str(tmp_path / source / "checkpoint-2"))
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names


def test_an_overwriting_run_whose_data_are_too_few_leaves_the_earlier_runs_files(make_trainer, tmp_path):
    make_trainer(max_steps=4, save_strategy="steps", save_steps=2).train()
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    trainer = make_trainer(max_steps=2, gradient_accumulation_steps=10_000, overwrite_output_dir=True)
    with pytest.raises(ValueError, match="^train_dataset has fewer rows than the .* of a step"):
        trainer.train()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == names


def test_a_checkpoint_that_is_a_link_to_another_disk_is_the_runs_own(make_trainer, tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make_trainer(**settings).train()
    (tmp_path / "run" / "checkpoint-2").rename(tmp_path / "elsewhere")
    (tmp_path / "run" / "checkpoint-2").symlink_to(tmp_path / "elsewhere")
    make_trainer(**settings).train(str(tmp_path / "run" / "checkpoint-2"))
    assert (tmp_path / "run" / "_abandoned-checkpoint-4").is_dir()
