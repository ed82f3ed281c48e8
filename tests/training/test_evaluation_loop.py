"""Evaluations equal a slow dense computation in float32, whatever training runs in, and change nothing."""

from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from run_traces import EVERY_SECOND_STEP, differences, logs_of, state_of
from tiny_models import GRADUAL, make_blocks, make_teacher
from transformers import EarlyStoppingCallback, EvalPrediction

from homodistil_hf import HomoDistilTrainer, MaskedLMCollator
from homodistil_hf.export.facts import read_facts
from homodistil_hf.training.evaluation_loop import both_evaluations, evaluations_in

pytestmark = pytest.mark.slow

KEPT = {"kept_fraction_hidden", "kept_fraction_attention", "kept_fraction_ffn"}


@torch.no_grad()
def slow_metrics(trainer: HomoDistilTrainer, *, batch_size: int) -> dict[str, float]:
    """KL, loss and accuracy from the logits of all tokens in float64 sums, with the stock teacher."""
    teacher, student = make_teacher(), trainer.model.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    rows = list(trainer.eval_dataset)
    collator = trainer.get_eval_dataloader().collate_fn
    for start in range(0, len(rows), batch_size):
        batch = collator(rows[start : start + batch_size])
        labels = batch["labels"]
        logits = [type(model).forward(model, input_ids=batch["input_ids"]).logits for model in (teacher, student)]
        log_teacher, log_student = (values.log_softmax(-1) for values in logits)
        for row, column in (labels != -100).nonzero().tolist():
            kl = (log_teacher[row, column].exp() * (log_teacher - log_student)[row, column]).sum()
            label = labels[row, column]
            correct = logits[1][row, column].argmax() == label
            sums += torch.stack([kl, -log_student[row, column, label], correct.float(), torch.tensor(1.0)]).double()
    kl, loss, correct, count = sums.tolist()
    return {"eval_kl": kl / count, "eval_mlm_loss": loss / count, "eval_mlm_accuracy": correct / count}


def trained(make_trainer: Any, **settings: Any) -> HomoDistilTrainer:
    defaults = {"max_steps": 6, "learning_rate": 5e-3, "mlm_weight": 1.0}
    trainer = make_trainer(**defaults | {"eval_dataset": make_blocks(21, seed=1)} | settings)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "settings",
    [
        {"per_device_eval_batch_size": 8},
        {"per_device_eval_batch_size": 5, "bf16": True, "teacher_dtype": "bfloat16"},
        {"per_device_eval_batch_size": 21, "attention_weight": 0.1},
    ],
)
def test_metrics_equal_a_slow_dense_computation(make_trainer, settings):
    trainer = trained(make_trainer, **settings)
    metrics = trainer.evaluate()
    expected = slow_metrics(trainer, batch_size=4)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert metrics["eval_kl"] > 0.01
    assert metrics["eval_loss"] == metrics["eval_mlm_loss"]
    assert {f"eval_{name}" for name in KEPT} <= metrics.keys()
    assert metrics["eval_kept_fraction_hidden"] == 0.5


def test_masks_are_the_same_in_every_evaluation(make_trainer):
    trainer = make_trainer(max_steps=20, eval_strategy="steps", eval_steps=5, learning_rate=0.0, student="macs=1.0")
    first = trainer.evaluate()
    trainer.train()
    losses = [entry["eval_loss"] for entry in logs_of(trainer) if "eval_loss" in entry]
    assert losses == [first["eval_loss"]] * 4
    assert trainer.data_collator.epoch == 2
    assert trainer.get_eval_dataloader().collate_fn.epoch == 0
    assert trainer.evaluate()["eval_loss"] == first["eval_loss"]


@pytest.mark.parametrize("settings", [{}, {"bf16": True}])
def test_evaluation_changes_no_run(make_trainer, tmp_path, settings):
    settings = {"max_steps": 8, "student_dropout": 0.1} | settings
    plain, measured = make_trainer(**settings), make_trainer(output_dir=str(tmp_path / "measured"), **settings)
    measured.evaluate()
    plain.train()
    measured.train()
    measured.evaluate()
    assert set(differences(state_of(plain), state_of(measured))) <= {"random"}
    assert [e for e in logs_of(measured) if "loss" in e] == [e for e in logs_of(plain) if "loss" in e]


def test_several_evaluation_sets_are_measured_each_for_itself(make_trainer, tmp_path):
    sets = {"books": make_blocks(6, seed=1), "news": make_blocks(9, seed=2)}
    trainer = trained(make_trainer, eval_dataset=sets, eval_strategy="steps", eval_steps=3)
    alone = {name: trainer.evaluate(rows) for name, rows in sets.items()}
    metrics = trainer.evaluate()
    for name, own in alone.items():
        for metric in ("kl", "mlm_accuracy"):
            assert metrics[f"eval_{name}_{metric}"] == own[f"eval_{metric}"]
    assert {"eval_books_loss", "eval_news_kept_fraction_ffn"} <= {name for entry in logs_of(trainer) for name in entry}
    kl = {f"{name}_kl": own["eval_kl"] for name, own in alone.items()}
    trainer.export(tmp_path / "student")
    for told in (trainer.held_out_metrics, read_facts(tmp_path / "student")["evaluation"]):
        assert {name: value for name, value in told.items() if name in kl} == kl
        assert {"books_loss", "news_loss", "books_kept_fraction_ffn", "news_mlm_accuracy"} <= told.keys()


def test_the_teacher_is_evaluated_on_all_evaluation_sets(make_trainer):
    sets = {"near": make_blocks(9, seed=1), "far": make_blocks(16, seed=2)}
    found = make_trainer(eval_dataset=sets).evaluate_teacher()
    for name, dataset in sets.items():
        alone = make_trainer(eval_dataset=dataset).evaluate_teacher()
        assert {key.removeprefix(f"{name}_"): value for key, value in found.items() if key.startswith(name)} == alone
    assert len(found) == 2 * len(alone) == 6


def test_metrics_have_one_order_though_a_checkpoint_sorts_its_log():
    entry = {"eval_loss": 2.0, "eval_kl": 1.0, "eval_kept_fraction_ffn": 0.5, "eval_runtime": 3.0, "step": 5}
    for log in ([entry], [dict(sorted(entry.items()))]):
        assert list(evaluations_in(log)[5].items()) == [("kl", 1.0), ("loss", 2.0), ("kept_fraction_ffn", 0.5)]


def test_a_set_that_was_measured_again_has_only_its_later_answers():
    earlier = {"a_kl": 1.0, "a_is_constant": True, "b_kl": 2.0, "b_is_constant": True}
    assert both_evaluations(earlier, {"a_kl": 0.5}) == {"a_kl": 0.5, "b_kl": 2.0, "b_is_constant": True}
    assert both_evaluations({"kl": 1.0, "is_constant": True}, {"kl": 0.5}) == {"kl": 0.5}


def test_evaluations_mask_the_same_share_whatever_training_masks(make_trainer, tokenizer):
    few, many = (make_trainer(mlm_probability=probability) for probability in (0.15, 0.6))
    found = [trainer.evaluate()["eval_loss"] for trainer in (few, many)]
    assert found[0] == found[1]
    assert many.data_collator.mlm_probability == 0.6
    own = make_trainer(data_collator=MaskedLMCollator(tokenizer, mlm_probability=0.6))
    assert own.evaluate()["eval_loss"] != found[0]


def test_all_rows_are_evaluated_though_training_drops_the_last(make_trainer):
    trainer = make_trainer(eval_dataset=make_blocks(21, seed=1), per_device_eval_batch_size=8)
    metrics = trainer.evaluate()
    assert (metrics["eval_kl"], metrics["eval_kept_fraction_ffn"]) == (0.0, 1.0)  # the unpruned student is its teacher
    assert trainer.predict(make_blocks(21, seed=1)).label_ids.shape == (21, 16)
    assert trainer.args.dataloader_drop_last
    for loader in (trainer.get_eval_dataloader(), trainer.get_test_dataloader(make_blocks(21))):
        assert [len(batch["input_ids"]) for batch in loader] == [8, 8, 5]
    num_rows = sum(len(batch["input_ids"]) for batch in trainer.get_train_dataloader())
    assert num_rows == 64 // 8 * 8


def test_loss_does_not_depend_on_the_batch_size(make_trainer):
    rows = [row[: 6 + index % 7] for index, row in enumerate(make_blocks(10)["input_ids"])]
    padded = Dataset.from_dict({"input_ids": rows, "example_id": list(range(10))})
    settings = {"eval_dataset": padded, "max_steps": 2}
    trainers = [trained(make_trainer, per_device_eval_batch_size=size, **settings) for size in (1, 3, 10)]
    losses = [trainer.evaluate()["eval_loss"] for trainer in trainers]
    assert losses[1:] == pytest.approx(losses[:1] * 2, rel=1e-6)


def test_prediction_gives_logits_of_all_tokens_and_metrics(make_trainer):
    trainer = trained(make_trainer)
    rows = make_blocks(5, seed=4)
    output = trainer.predict(rows)
    input_ids = trainer.get_eval_dataloader(rows).collate_fn(list(rows))["input_ids"]
    with torch.no_grad():
        logits = trainer.model.eval()(input_ids).logits
    np.testing.assert_allclose(output.predictions, logits.numpy(), atol=1e-5)
    assert output.label_ids.shape == (5, 16)
    assert output.metrics["test_kl"] == trainer.evaluate(rows)["eval_kl"]
    assert {f"test_{name}" for name in KEPT} <= output.metrics.keys()


def test_metrics_of_the_users_own_on_words(make_trainer):
    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        predicted, labels = prediction
        counted = labels != -100
        return {"own_accuracy": float((predicted == labels)[counted].mean())}

    trainer = trained(
        make_trainer,
        compute_metrics=accuracy,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
        model=make_teacher(vocab_size=96),
        train_dataset=make_blocks(8, seed=1),
        eval_dataset=make_blocks(8, seed=1),
        max_steps=40,
        learning_rate=0.01,
        adam_beta2=0.999,
        **GRADUAL,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_own_accuracy"] == pytest.approx(metrics["eval_mlm_accuracy"])
    assert metrics["eval_loss"] == metrics["eval_mlm_loss"]
    assert metrics["eval_mlm_accuracy"] > 0


# The best checkpoint


def test_a_run_that_gets_nearer_is_not_stopped(make_trainer):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 5, "learning_rate": 1e-3}
    trainer = make_trainer(metric_for_best_model="eval_kl", callbacks=[EarlyStoppingCallback(1)], **settings)
    trainer.train()
    first, *values = (found["kl"] for step, found in trainer.evaluations.items() if step > 1)
    assert first < values[0]  # only students of the plan are compared
    assert values == sorted(values, reverse=True)
    assert trainer.state.global_step == 5


def test_an_export_has_the_metrics_of_its_own_weights_and_of_held_out_rows(make_trainer, tmp_path):
    settings = EVERY_SECOND_STEP | {"metric_for_best_model": "mlm_accuracy", "greater_is_better": False}
    trainer = trained(make_trainer, max_steps=12, **settings)
    step = trainer.state.best_global_step
    assert step < trainer.state.global_step
    facts = read_facts(trainer.export(tmp_path / "best"))
    assert facts["evaluation"] == trainer.evaluations[step]
    assert facts["training"]["num_steps"] == step
    assert facts["training"]["num_epochs"] == trainer.state.epoch * step / trainer.state.global_step
    own = trainer.evaluate()
    assert own["eval_kl"] == trainer.evaluations[step]["kl"]
    assert trainer.evaluate(make_blocks(16, seed=5))["eval_kl"] != own["eval_kl"]
    assert read_facts(trainer.export(tmp_path / "again"))["evaluation"]["kl"] == own["eval_kl"]


def test_rows_that_come_with_the_evaluation_alone_are_those_that_exports_tell(make_trainer):
    trainer = trained(make_trainer, eval_dataset=None)
    assert trainer.held_out_metrics == {}
    found = trainer.evaluate(make_blocks(9, seed=1))
    assert trainer.held_out_metrics["kl"] == found["eval_kl"]


def test_a_resumed_run_is_stopped_as_early_as_the_whole_one(make_trainer, tmp_path):
    settings = {"max_steps": 30, "metric_for_best_model": "mlm_accuracy", "greater_is_better": False}
    settings |= {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}

    def make():
        patience = [EarlyStoppingCallback(3), EarlyStoppingCallback(4)]
        return make_trainer(callbacks=patience, pruning_end_fraction=0.1, **settings)

    whole = make()
    whole.train()
    last = whole.state.global_step
    assert last < 30
    resumed = make()
    resumed.train(str(tmp_path / "run" / f"checkpoint-{last - 1}"))
    assert resumed.state.global_step == last
