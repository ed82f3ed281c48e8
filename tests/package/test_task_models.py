"""Fine-tuned teachers are pruned and distilled by the same trainer, on padded batches, and exported to their class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from run_traces import logs_of
from students import assert_same_logits, logits_of
from task_cases import stock_loss
from tiny_models import GRADUAL, make_teacher
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
)

from homodistil_hf import HomoDistilTrainer

pytestmark = pytest.mark.slow

LENGTHS = [7, 12, 16, 9, 5, 14, 11, 16]
TASKS: dict[str, dict[str, Any]] = {
    "single label": {"task": "sequence_classification", "num_labels": 3},
    "regression": {"task": "sequence_classification", "num_labels": 1},
    "multi label": {
        "task": "sequence_classification",
        "num_labels": 3,
        "problem_type": "multi_label_classification",
    },
    "token classification": {"task": "token_classification", "num_labels": 4},
    "question answering": {"task": "question_answering"},
}
AUTO_CLASSES = {
    "sequence_classification": AutoModelForSequenceClassification,
    "token_classification": AutoModelForTokenClassification,
    "question_answering": AutoModelForQuestionAnswering,
}


def rows_of(name: str, num_rows: int = 40, seed: int = 0, lengths: Sequence[int] = LENGTHS) -> Dataset:
    """Rows of 5 to 16 tokens with the task's labels."""
    generator = np.random.default_rng(seed)
    lengths = [lengths[index % len(lengths)] for index in range(num_rows)]
    columns: dict[str, list[Any]] = {
        "input_ids": [[2, *generator.integers(5, 96, length - 2).tolist(), 3] for length in lengths],
        "attention_mask": [[1] * length for length in lengths],
        "token_type_ids": [[0] * (length // 2) + [1] * (length - length // 2) for length in lengths],
    }
    if name == "question answering":
        columns["start_positions"] = [int(generator.integers(0, length)) for length in lengths]
        columns["end_positions"] = [int(generator.integers(0, length)) for length in lengths]
    elif name == "token classification":
        columns["labels"] = [[-100, *generator.integers(0, 4, length - 2).tolist(), -100] for length in lengths]
    elif name == "multi label":
        columns["label"] = [generator.integers(0, 2, 3).astype(float).tolist() for _ in lengths]
    elif name == "regression":
        columns["label"] = [float(generator.normal()) for _ in lengths]
    else:
        columns["label"] = [int(generator.integers(0, 3)) for _ in lengths]
    return Dataset.from_dict(columns)


@pytest.fixture
def task_trainer(make_trainer, tokenizer) -> Any:
    """A trainer of one of `TASKS`."""

    def make(name: str, **settings: Any) -> HomoDistilTrainer:
        collator = DataCollatorForTokenClassification(tokenizer) if name == "token classification" else None
        defaults = {
            "model": make_teacher(**TASKS[name]),
            "train_dataset": rows_of(name),
            "eval_dataset": rows_of(name, 19, seed=1),
            "data_collator": collator,
            "per_device_eval_batch_size": 4,
            "max_steps": 10,
            "learning_rate": 5e-3,
        }
        return make_trainer(**GRADUAL | defaults | settings)

    return make


def batches_of(trainer: HomoDistilTrainer) -> list[dict[str, torch.Tensor]]:
    return list(trainer.get_eval_dataloader())


def slow_divergence(name: str, teacher: torch.Tensor, student: torch.Tensor, batch: Any) -> list[float]:
    """KL of every prediction of a batch, in float64."""
    teacher, student = teacher.double(), student.double()
    if name == "regression":
        return ((teacher - student).square() / 2).flatten().tolist()
    if name == "multi label":
        p, q = teacher.sigmoid(), student.sigmoid()
        kl = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        return kl.mean(-1).tolist()
    if name == "question answering":
        # padding is no place for an answer
        is_padding = batch["attention_mask"][:, :, None] == 0
        teacher, student = (one.masked_fill(is_padding, -1e30) for one in (teacher, student))
        teacher, student = teacher.transpose(1, 2).flatten(0, 1), student.transpose(1, 2).flatten(0, 1)
    if name == "token classification":
        counted = batch["labels"] != -100
        teacher, student = teacher[counted], student[counted]
    log_teacher, log_student = teacher.log_softmax(-1), student.log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1).tolist()


@pytest.mark.parametrize("name", TASKS)
def test_pruned_distilled_measured_and_exported(task_trainer, tmp_path, name):
    trainer = task_trainer(name, bf16=name == "single label")
    trainer.train()
    assert trainer.kept == trainer.plan
    metrics = trainer.evaluate()
    folder = trainer.export(tmp_path / "student")
    exported = AUTO_CLASSES[TASKS[name]["task"]].from_pretrained(folder)
    teacher = make_teacher(**TASKS[name])
    assert type(exported) is type(teacher)
    assert exported.config.hidden_size == 16
    divergences, losses, sizes = [], [], []
    for batch in batches_of(trainer):
        found = logits_of(exported, batch)
        expected = logits_of(trainer.model, batch)
        assert_same_logits(found, expected)
        divergences += slow_divergence(name, logits_of(teacher, batch), expected, batch)
        losses.append(stock_loss(exported, batch))
        sizes.append(
            int((batch["labels"] != -100).sum()) if name == "token classification" else len(batch["input_ids"])
        )
    assert metrics["eval_kl"] == pytest.approx(np.mean(divergences), rel=1e-4)
    assert metrics["eval_kl"] > 1e-4
    assert metrics["eval_task_loss"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-4)
    assert metrics["eval_loss"] == metrics["eval_task_loss"]
    assert ("eval_task_accuracy" in metrics) == (name not in ("regression", "multi label"))


def test_metrics_of_the_users_own(task_trainer):
    def accuracy(prediction: EvalPrediction) -> dict[str, float]:
        assert prediction.predictions.shape == (19, 3)
        return {"own_accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    trainer = task_trainer("single label", compute_metrics=accuracy, eval_strategy="steps", eval_steps=5)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_own_accuracy"] == pytest.approx(metrics["eval_task_accuracy"])
    assert metrics["eval_loss"] == metrics["eval_task_loss"]
    assert sum("eval_own_accuracy" in entry for entry in logs_of(trainer)) == 3


@pytest.mark.parametrize("name", ["single label", "question answering"])
def test_prediction_without_labels(task_trainer, name):
    trainer = task_trainer(name, max_steps=2)
    trainer.train()
    rows = rows_of(name, 5).select_columns(["input_ids", "attention_mask", "token_type_ids"])
    output = trainer.predict(rows)
    batch = trainer.data_collator(list(rows))
    expected = logits_of(trainer.model, batch)
    predictions = np.stack(output.predictions, -1) if name == "question answering" else output.predictions
    kept = predictions != -100  # Trainer fills shorter batches up
    np.testing.assert_allclose(predictions[kept], expected.numpy()[kept], atol=1e-5)
    assert output.label_ids is None
    assert "test_kl" not in output.metrics


@pytest.mark.parametrize("name", ["token classification", "question answering"])
def test_one_batch_of_eight_equals_eight_of_one(task_trainer, name):
    settings = {"pruning_interval_steps": 1, "width_multiple": 1, "attention_weight": 0.1, "learning_rate": 6e-4}
    if name == "question answering":
        # An answer's softmax runs over padding too, as stock BERT's does, so it depends on the batch.
        settings["train_dataset"] = rows_of(name, lengths=[12])
    whole = task_trainer(name, **settings)
    parts = task_trainer(name, per_device_train_batch_size=1, gradient_accumulation_steps=8, **settings)
    whole.train()
    parts.train()
    for found, expected in zip(logs_of(parts)[:-1], logs_of(whole)[:-1], strict=True):
        names = {key for key in expected if key.startswith("loss")}
        assert {key: found[key] for key in names} == pytest.approx(
            {key: expected[key] for key in names}, rel=1e-4, abs=1e-5
        )


def test_a_task_has_a_learning_rate_of_its_own(task_trainer, caplog):
    with caplog.at_level("INFO", logger="homodistil_hf"):
        trainer = task_trainer("single label", learning_rate=None)
    assert trainer.args.learning_rate == 6e-4
    assert "learning_rate=0.0006 by default; for long texts also try half of it" in caplog.text
    assert task_trainer("single label", learning_rate=1e-4).args.learning_rate == 1e-4


def test_a_wider_teacher_given_apart(task_trainer):
    teacher = make_teacher("sequence_classification", num_labels=3, hidden_size=48, intermediate_size=80)
    trainer = task_trainer("single label", teacher_model=teacher)
    assert trainer.model.projections.embedding.weight.shape == (48, 32)
    trainer.train()
    assert trainer.model.projections.embedding.weight.shape == (48, 16)
    first = logs_of(trainer)[0]
    batch = batches_of(trainer)[0]
    assert first["loss_kl"] > 0
    assert first["loss_hidden"] > 0
    student, guide = logits_of(trainer.model, batch), logits_of(teacher, batch)
    meter_kl = np.mean(slow_divergence("single label", guide, student, batch))
    metrics = trainer.evaluate(trainer.eval_dataset.select(range(4)))
    assert metrics["eval_kl"] == pytest.approx(meter_kl, rel=1e-4)
