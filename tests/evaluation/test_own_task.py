"""A task of one's own: rows in files → a stock classifier, and what a fine-tuned teacher adds to the loss."""

import json

import pytest
import torch
from datasets import Dataset
from tiny_files import own_cache, write_teacher
from tiny_models import VOCAB_SIZE, make_teacher, random_student, tiny_tokenizer
from torch.nn import functional as F
from transformers import AutoTokenizer, BertForSequenceClassification, DataCollatorWithPadding, TrainingArguments

from homodistil_hf.cli import main
from homodistil_hf.evaluation.fine_tuning import TaskDistillTrainer, fresh_classifier, settings_from
from homodistil_hf.evaluation.own_task import OwnTaskSettings, fine_tune_own, task_metrics
from homodistil_hf.evaluation.task_data import GlueTask, encode
from homodistil_hf.export.export_folder import export_student
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM

QUICK = {"max_length": 24, "batch_size": 8, "learning_rate": 1e-3, "num_train_epochs": 2, "dtype": "float32"}


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    own_cache(monkeypatch, tmp_path / "cache")


def rows(num_rows, label=lambda word: "even" if word % 2 == 0 else "odd"):
    words = torch.randint(5, VOCAB_SIZE, (num_rows, 4), generator=torch.Generator().manual_seed(num_rows)).tolist()
    texts = [" ".join(f"w{word}" for word in row) for row in words]
    return Dataset.from_dict({"text": texts, "label": [label(row[0]) for row in words]})


@pytest.fixture
def given(tmp_path):
    """Settings of a tiny teacher and rows of two named classes, in files."""
    write_teacher(tmp_path / "bert")
    rows(40).to_parquet(tmp_path / "train.parquet")
    rows(16).to_json(tmp_path / "dev.jsonl")
    paths = {"model": "bert", "train_data": "train.parquet", "eval_data": "dev.jsonl", "output_dir": "out"}
    return {**{name: str(tmp_path / path) for name, path in paths.items()}, **QUICK}


def run(given, **changes):
    lines = []
    return fine_tune_own(settings_from(OwnTaskSettings, {**given, **changes}), lines.append), lines


def test_a_command_makes_a_stock_classifier_that_is_what_was_measured(given, tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert main(["finetune", str(tmp_path / "config.json"), "--num_train_epochs", "1", "--seed", "3"]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["num_steps"], results["settings"]["seed"]) == (5, 3)
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    assert model.config.id2label == {0: "even", 1: "odd"}
    right = []
    for row in rows(16):
        with torch.no_grad():
            logits = model(**tokenizer(row["text"], return_tensors="pt")).logits
        right.append(model.config.id2label[int(logits.argmax())] == row["label"])
    assert results["metrics"]["accuracy"] == sum(right) / 16
    assert f"accuracy {sum(right) / 16:.4f}" in capsys.readouterr().out


def test_a_compact_student_becomes_a_stock_classifier(given, tmp_path):
    student = random_student(HomoBertForMaskedLM, vocab_size=VOCAB_SIZE)
    export_student(student, tmp_path / "compact", "compact", tokenizer=tiny_tokenizer())
    results, _ = run(given, model=str(tmp_path / "compact"))
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    assert (model.config.model_type, len(results["metrics"])) == ("bert", 2)


def test_fractions_are_a_regression(given, tmp_path):
    for name, num_rows in (("train", 40), ("dev", 16)):
        rows(num_rows, label=lambda word: word / 10).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {"train_data": str(tmp_path / "train.csv"), "eval_data": str(tmp_path / "dev.csv")}
    results, _ = run(given, **files)
    assert results["metrics"].keys() == {"pearson"}
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


def test_the_best_rate_on_held_out_rows_is_taken(given):
    rates = {"learning_rate": None, "learning_rates": [1e-5, 1e-2]}
    results, lines = run(given, **rates, num_train_epochs=None, max_train_steps=40)
    scores = {float(line.split()[2].rstrip(":")): float(line.split("accuracy ")[1][:6]) for line in lines}
    assert scores.keys() == {1e-5, 1e-2}
    assert results["learning_rate"] == max(scores, key=lambda rate: scores[rate])
    assert results["num_steps"] == 40


@pytest.mark.parametrize(("labels", "is_told"), [([0, 1] * 8, True), ([0] * 16, False)])
def test_one_class_for_all_rows_is_told(labels, is_told, given, caplog):
    model = make_teacher("sequence_classification")
    model.classifier.weight.data.zero_()
    found = rows(16).remove_columns("label").add_column("label", labels)
    task = GlueTask("own", ("text",), num_labels=2)
    task_metrics(model, found, task, AutoTokenizer.from_pretrained(given["model"]), max_length=24)
    assert ("all 16 rows get one class; lower learning_rate" in caplog.text) == is_told


def test_a_student_learns_from_a_fine_tuned_teacher(given, tmp_path):
    run(given, output_dir=str(tmp_path / "teacher"))
    run(given, teacher=str(tmp_path / "teacher" / "model"))
    model = BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model")
    assert not [name for name in model.state_dict() if "projections" in name]


def classifier(seed):
    return fresh_classifier(make_teacher().base_model, 2, dropout=0.0, seed=seed)


def trainer_of(teacher, student, tmp_path):
    tokenizer = tiny_tokenizer()
    data = rows(32, label=lambda word: word % 2)
    encoded = encode(data, GlueTask("own", ("text",)), tokenizer, 24).remove_columns("length")
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none", per_device_train_batch_size=8)
    collator = DataCollatorWithPadding(tokenizer)
    trainer = TaskDistillTrainer(teacher, model=student, args=args, train_dataset=encoded, data_collator=collator)
    return trainer, collator([encoded[index] for index in range(8)])


def test_beside_itself_a_model_has_its_own_loss_alone(tmp_path):
    trainer, batch = trainer_of(classifier(0), student := classifier(0), tmp_path)
    own = F.cross_entropy(student(**{k: v for k, v in batch.items() if k != "labels"}).logits, batch["labels"])
    torch.testing.assert_close(trainer.compute_loss(student, dict(batch)), own, rtol=1e-4, atol=1e-4)


def test_the_loss_by_hand(tmp_path):
    teacher, student = classifier(0), classifier(1)
    with torch.no_grad():
        student.bert.encoder.layer[0].output.dense.weight.mul_(-1)
    trainer, batch = trainer_of(teacher, student, tmp_path)
    read = {name: tensor for name, tensor in batch.items() if name != "labels"}
    outputs = [model(**read, output_hidden_states=True) for model in (student, teacher)]
    expected = F.cross_entropy(outputs[0].logits, batch["labels"])
    log_own, log_guide = (found.logits.log_softmax(-1) for found in outputs)
    expected = expected + (log_guide.exp() * (log_guide - log_own)).sum(-1).mean()
    is_token = batch["attention_mask"].bool()
    for layer, project in enumerate(student.projections.hidden, start=1):
        own, guide = (found.hidden_states[layer][is_token] for found in outputs)
        expected = expected + (guide - project(own)).square().mean()
    torch.testing.assert_close(trainer.compute_loss(student, dict(batch)), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "model='' is not a name; set it"),
        ({"train_data": "rows.txt"}, "train_data='rows.txt' is no file of .parquet, .json"),
        ({"text_columns": ["a", "b", "c"]}, "are 3; expected 1 or 2"),
        ({"text_columns": "sentence"}, "lacks the column 'sentence'; it has text, label"),
        ({"seed": -1}, "seed=-1 is not a whole number from 0"),
        ({"lable_column": "x"}, "unknown key 'lable_column' .*; nearest valid: 'label_column'"),
    ],
)
def test_what_is_wrong_is_told_before_training(given, changes, message):
    with pytest.raises(ValueError, match=message):
        run(given, **changes)


def test_a_model_is_not_overwritten(given, tmp_path):
    (tmp_path / "out" / "model").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds model/ already; name another folder"):
        run(given)


def test_labels_that_do_not_fit_are_refused(given, tmp_path):
    rows(16, label=lambda word: "other").to_json(tmp_path / "other.jsonl")
    with pytest.raises(ValueError, match="eval_data has the label 'other', which train_data never has"):
        run(given, eval_data=str(tmp_path / "other.jsonl"))
    with pytest.raises(ValueError, match="teacher is a BertForMaskedLM; expected one that is fine-tuned for the task"):
        run(given, teacher=given["model"])
    classifier(0).save_pretrained(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"teacher has the labels \['LABEL_0', 'LABEL_1'\], the rows"):
        run(given, teacher=str(tmp_path / "teacher"))
    for name, num_rows in (("train", 40), ("dev", 16)):
        rows(num_rows, label=lambda word: word / 10).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {"train_data": str(tmp_path / "train.csv"), "eval_data": str(tmp_path / "dev.csv")}
    with pytest.raises(ValueError, match=r"teacher has the labels \['LABEL_0', 'LABEL_1'\], the rows \[\]"):
        run(given, teacher=str(tmp_path / "teacher"), **files)


def test_unnamed_classes_of_a_teacher_are_numbers(given, tmp_path):
    classifier(0).save_pretrained(tmp_path / "teacher")
    for name, num_rows in (("train", 40), ("dev", 16)):
        rows(num_rows, label=lambda word: word % 2).to_csv(tmp_path / f"{name}.csv", index=False)
    files = {"train_data": str(tmp_path / "train.csv"), "eval_data": str(tmp_path / "dev.csv")}
    run(given, teacher=str(tmp_path / "teacher"), **files)
    assert BertForSequenceClassification.from_pretrained(tmp_path / "out" / "model").config.id2label == {
        0: "0",
        1: "1",
    }
