"""What a trainer refuses: models, settings and data when it is made, output folders that hold files when it trains."""

import json
from typing import Any

import pytest
from datasets import Dataset
from rows import each
from run_traces import SaveAt
from tiny_models import make_blocks, make_teacher
from transformers import TrainingArguments, default_data_collator

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.training import pair as preparation
from homodistil_hf.training_args import own_arguments

# Output folders


@pytest.mark.slow
def test_overwriting_removes_an_earlier_runs_checkpoints_and_nothing_else(make_trainer, tmp_path):
    make_trainer(max_steps=4, callbacks=[SaveAt(3, 4)]).train()
    (tmp_path / "run" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"is not empty \(.*, notes.txt\); go on with .*, set overwrite_output_dir, or name"
    ):
        make_trainer(max_steps=2).train()
    (tmp_path / "run" / "results.json").write_text('{"time_s": 7777}', encoding="utf-8")  # of the command
    make_trainer(max_steps=2, callbacks=[SaveAt(1)], overwrite_output_dir=True).train()
    left = ["checkpoint-1", "notes.txt", "trainer_state.json"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == left
    assert json.loads((tmp_path / "run" / "trainer_state.json").read_text())["global_step"] == 2


def test_a_trainer_may_train_twice_into_its_own_folder(trained):
    trainer = trained(max_steps=2, callbacks=[SaveAt(1)])
    trainer.train()
    assert trainer.state.global_step == 2


# Refused when the trainer is made


CLASSIFIER = make_teacher("sequence_classification")
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "no student": ({"student": None}, r"^student=None names no widths; name a preset \(homobert-tiny\), a budget"),
    "no tokenizer": ({"processing_class": None}, "processing_class=None is no tokenizer"),
    "own loss": ({"compute_loss_func": print}, "^compute_loss_func=.* would replace the distillation loss; leave it"),
    "own model": ({"model_init": make_teacher}, "^model_init=.* would replace the student, .*; leave it out; each tr"),
    "rounded evaluation": ({"bf16_full_eval": True}, "bf16_full_eval=True would round"),
    "sampling by cost": (
        {"train_sampling_strategy": "batch_rebalance"},
        "train_sampling_strategy='batch_rebalance' draws from the global random state",
    ),
    "teacher of a task without its rows": (
        {"teacher_model": make_teacher("token_classification"), "student": None, "num_scoring_batches": 16},
        "train_dataset has the columns input_ids, example_id, but not labels",
    ),
    "weight of a task": ({"task_weight": 2.0}, "^task_weight=2.0 has no part in this run: masked words are its task"),
    "weight of words": ({"model": CLASSIFIER, "mlm_weight": 0.5}, "^mlm_weight=0.5 has no part in this run: its own"),
    "masks for a task": ({"model": CLASSIFIER, "mlm_probability": 0.2}, "^mlm_probability=0.2 has .*: no words are"),
    "masks beside a collator": (
        {"mlm_probability": 0.2, "data_collator": print},
        "^mlm_probability=0.2 has no part .*: the given data_collator masks words; set it there",
    ),
}


@pytest.mark.slow
@each("case", REFUSALS)
def test_refused_when_the_trainer_is_made(make_trainer, case):
    settings, message = REFUSALS[case]
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_batches_without_labels_are_refused_by_name(make_trainer):
    rows = Dataset.from_dict({"input_ids": make_blocks(8)["input_ids"]})
    trainer = make_trainer(train_dataset=rows, data_collator=default_data_collator)
    with pytest.raises(ValueError, match="a training batch has input_ids, but not labels; check the columns"):
        trainer.train()


def test_stock_settings_are_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(preparation, "load_encoder_config", lambda *args, **kwargs: pytest.fail("a config was read"))
    stock = TrainingArguments(output_dir="out", report_to="none", use_cpu=True)
    message = "^args is a TrainingArguments, which hasn't all settings of this method; make it a HomoDistilTrainingArg"
    with pytest.raises(ValueError, match=message):
        HomoDistilTrainer("no/such-teacher", stock)
    with pytest.raises(ValueError, match="^args is a NoneType, "):
        own_arguments(None, HomoDistilTrainingArguments)


def test_a_metric_that_no_evaluation_has_is_refused(make_trainer):
    settings = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    trainer = make_trainer(metric_for_best_model="kll", eval_steps=1, save_steps=1, max_steps=2, **settings)
    with pytest.raises(ValueError, match="^metric_for_best_model='kll' is in no evaluation; nearest valid: 'kl'"):
        trainer.train()
