"""GLUE rows, heads and fine-tunings: what is trained on, what is measured on, and that a seed is a seed."""

import json
import tempfile
from functools import partial

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from datasets import ClassLabel, Dataset
from own_rows import run
from resumed_runs import sigterm_at
from rows import each
from sklearn.metrics import accuracy_score
from tiny_files import write_teacher
from tiny_glue import NUM_TRAIN, write_task
from tiny_models import make_teacher, random_student, tiny_tokenizer
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from homodistil_hf.data.lengths import LengthSampler
from homodistil_hf.evaluation import GlueSettings, evaluate_glue
from homodistil_hf.evaluation.evaluated_model import load_model
from homodistil_hf.evaluation.fine_tuning import (
    LEAST_STEPS,
    FineTuningTrainer,
    encoded_rows,
    fine_tune,
    fine_tuned,
    settings_from,
)
from homodistil_hf.evaluation.task_runs import training_rows
from homodistil_hf.files.checkpoints import last_checkpoint
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM
from homodistil_hf.models.heads import fastest_device, logits_of_rows, with_fresh_head
from homodistil_hf.tasks.glue import GLUE_TASKS, check_tasks, data_folder, load_task
from homodistil_hf.tasks.held_out import keep_aside

QUICK = {"learning_rate": 1e-4, "num_train_epochs": 1, "batch_size": 8, "max_length": 24}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """rte, stsb, a part of mnli, and nothing else."""
    folder = tmp_path_factory.mktemp("glue data")
    write_task(folder, "rte")
    write_task(folder, "stsb")
    write_task(folder, "mnli", folder="mnli_part")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny stock BERT."""
    return write_teacher(tmp_path_factory.mktemp("models") / "tiny")


# Tasks and rows


def test_glue_stands_for_all_nine():
    assert check_tasks("glue") == list(GLUE_TASKS)
    assert check_tasks(["rte", "glue"])[0] == "rte"
    assert len(check_tasks(["rte", "glue"])) == 9


@each(("name", "nearest"), [("rtt", "rte"), ("sts-b", "stsb"), ("SST2", "sst2")])
def test_an_unknown_task_names_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"task={name!r} is unknown; nearest valid: '{nearest}'"):
        check_tasks([name])


def test_both_dev_sets_of_mnli_are_read_once(tmp_path):
    sizes = {"train": 9, "validation": 2, "validation_matched": 2, "validation_mismatched": 3}
    write_task(tmp_path, "mnli", splits=sizes)
    data = load_task("mnli", tmp_path)
    assert {split: len(rows) for split, rows in data.dev.items()} == {
        "validation_matched": 2,
        "validation_mismatched": 3,
    }


def test_tasks_may_lie_in_a_folder_called_glue(tmp_path):
    write_task(tmp_path / "glue", "rte")
    assert data_folder("rte", tmp_path) == tmp_path / "glue" / "rte"


def test_a_missing_task_names_what_is_there(data_dir, tmp_path):
    with pytest.raises(ValueError, match="has no folder cola and no cola_part, but mnli_part, rte, stsb; add it"):
        data_folder("cola", data_dir)
    with pytest.raises(ValueError, match="but none of any task"):
        data_folder("cola", tmp_path)
    with pytest.raises(ValueError, match="data_dir='.*nowhere' is no folder"):
        data_folder("cola", tmp_path / "nowhere")


@each(
    ("task", "labels", "expected"),
    [
        ("rte", ["entailment", "not_entailment", "1"], [0, 1, 1]),
        ("mnli", ["Neutral", "contradiction", "entailment"], [1, 2, 0]),
        ("stsb", ["2.5", "0", "5.0"], [2.5, 0.0, 5.0]),
        ("qnli", ClassLabel(names=["not_entailment", "entailment"]), [1, 0, 0]),
        ("sst2", ClassLabel(names=["0", "1"]), [0, 1, 1]),
    ],
)
def test_labels_as_words_are_the_tasks_numbers(tmp_path, task, labels, expected):
    texts = {name: ["w5", "w6", "w7"] for name in GLUE_TASKS[task].columns.texts}
    rows = Dataset.from_dict(texts | {"label": [0, 1, 1] if isinstance(labels, ClassLabel) else labels})
    plain = Dataset.from_dict(texts | {"label": expected})
    for name, table in (("words", rows), ("plain", plain)):
        table = table.cast_column("label", labels) if name == "words" and isinstance(labels, ClassLabel) else table
        for split in ("train", "validation"):
            table.to_parquet(tmp_path / name / task / f"{split}.parquet")
    data = load_task(task, tmp_path / "words")
    assert data.train["label"][:] == expected
    assert data.sha256 == load_task(task, tmp_path / "plain").sha256


@each(
    ("task", "changes", "message"),
    [
        (
            "rte",
            {"label": [0, -1, 1]},
            r"validation of .* has the label -1; expected 0 … 1 or .* \(test rows have none\)",
        ),
        ("mnli", {"label": [0, 3, 1]}, "has the label 3; expected 0 … 2"),
        ("stsb", {"label": [0.0, 5.5, 1.0]}, "has the label 5.5; expected numbers from 0 to 5"),
        ("rte", {"sentence2": None}, "lacks the column 'sentence2'; expected sentence1, sentence2, label; it has "),
        ("rte", {"label": None}, "lacks the column 'label'"),
    ],
)
def test_rows_that_are_not_the_tasks_are_refused(tmp_path, task, changes, message):
    folder = write_task(tmp_path, task)
    values = {
        name: list(column)[:3]
        for name, column in pyarrow.parquet.read_table(folder / "validation.parquet").to_pydict().items()
    }
    values = {
        name: changes.get(name, column) for name, column in values.items() if changes.get(name, column) is not None
    }
    pyarrow.parquet.write_table(pyarrow.table(values), folder / "validation.parquet")
    with pytest.raises(ValueError, match=message):
        load_task(task, tmp_path)


def test_rows_are_encoded_as_the_model_reads_them(data_dir):
    tokenizer, rows = tiny_tokenizer(), load_task("rte", data_dir).train
    encoded = encoded_rows(GLUE_TASKS["rte"], rows, tokenizer, 12)
    first = rows[0]
    assert (
        encoded[0]["input_ids"]
        == tokenizer(first["sentence1"], first["sentence2"], truncation=True, max_length=12)["input_ids"]
    )
    assert set(encoded[0]["token_type_ids"]) == {0, 1}
    assert encoded["labels"][:] == rows["label"][:]
    assert encoded["length"][:] == [len(ids) for ids in encoded["input_ids"][:]]
    assert max(encoded["length"][:]) == 12
    values = encoded_rows(GLUE_TASKS["stsb"], load_task("stsb", data_dir).train, tokenizer, 12)["labels"][:]
    assert all(isinstance(value, float) for (value,) in values)


def test_the_same_rows_are_capped_and_held_out_every_time(data_dir):
    rows = load_task("rte", data_dir).train
    capped = training_rows(rows, 10)["idx"][:]
    assert capped == training_rows(rows, 10)["idx"][:]
    assert len(set(capped)) == 10
    assert capped != list(range(10))
    assert training_rows(rows, NUM_TRAIN)["idx"][:] == training_rows(rows, None)["idx"][:] == list(range(NUM_TRAIN))
    learnt, held_out, _ = keep_aside(rows, GLUE_TASKS["rte"].columns)
    assert len(held_out) == 4
    assert sorted([*learnt["idx"], *held_out["idx"]]) == list(range(NUM_TRAIN))


# One fine-tuning


@pytest.mark.parametrize("kind", ("stock", "per-layer"))
def test_a_classifier_takes_the_encoder_and_nothing_else(kind):
    source = make_teacher() if kind == "stock" else random_student(HomoBertForMaskedLM, vocab_size=96)
    classifier = with_fresh_head(source.base_model, 3, dropout=0.25, seed=7)
    kept = {name: tensor for name, tensor in classifier.base_model.state_dict().items() if "pooler" not in name}
    assert kept.keys() == source.base_model.state_dict().keys()
    assert all(torch.equal(tensor, source.base_model.state_dict()[name]) for name, tensor in kept.items())
    assert classifier.config.attention_probs_dropout_prob == classifier.dropout.p == 0.25
    assert classifier.classifier.out_features == 3
    again, other = (with_fresh_head(source.base_model, 3, dropout=0.0, seed=seed) for seed in (7, 8))
    pooler = classifier.base_model.pooler.dense
    assert torch.equal(pooler.weight, again.base_model.pooler.dense.weight)
    assert not torch.equal(pooler.weight, other.base_model.pooler.dense.weight)
    assert float(pooler.weight.detach().std()) == pytest.approx(source.config.initializer_range, rel=0.1)
    assert pooler.bias.count_nonzero() == classifier.classifier.bias.count_nonzero() == 0


def test_a_regression_starts_at_the_mean_of_its_labels(data_dir, model):
    settings = GlueSettings(**QUICK | {"learning_rate": 1e-30, "max_train_steps": 1})  # no weight moves
    rows = {task: load_task(task, data_dir).train for task in ("stsb", "rte")}
    trained = {
        task: fine_tuned(load_model(model), GLUE_TASKS[task], rows[task], settings=settings, seed=0) for task in rows
    }
    mean = sum(rows["stsb"]["label"][:]) / NUM_TRAIN
    assert trained["stsb"].model.classifier.bias.tolist() == [pytest.approx(mean, rel=1e-6)]
    assert trained["rte"].model.classifier.bias.tolist() == pytest.approx([0.0, 0.0], abs=1e-20)


def test_a_diverged_training_is_no_result(data_dir):
    tokenizer = tiny_tokenizer()
    classifier = with_fresh_head(make_teacher().base_model, 2, dropout=0.1, seed=0)
    torch.nn.init.constant_(classifier.classifier.bias, float("nan"))
    rows = encoded_rows(GLUE_TASKS["rte"], load_task("rte", data_dir).train, tokenizer, 24)
    with pytest.raises(FloatingPointError, match="at learning_rate=0.0001: fine-tuning diverged; lower learning_rate"):
        fine_tune(classifier, rows, tokenizer, settings=GlueSettings(**QUICK), seed=0)


@pytest.mark.slow
def test_a_seed_is_a_seed(data_dir, model, tmp_path):
    """Real trainings: equal seeds end equal, in bfloat16 too where it is multiplied; the score is scikit-learn's."""
    settings = {**QUICK, "data_dir": str(data_dir), "learning_rate": 1e-3, "seeds": [0, 1]}
    first, second = (evaluate_glue(model, ["rte"], settings=settings, output_dir=tmp_path / name) for name in "ab")
    assert first == second
    record = json.loads((tmp_path / "a" / "rte.seed-1.json").read_text())
    again = json.loads((tmp_path / "b" / "rte.seed-1.json").read_text())
    assert record["train_loss"] == again["train_loss"]
    assert record["train_loss"] != json.loads((tmp_path / "a" / "rte.seed-0.json").read_text())["train_loss"]
    assert record["num_steps"] == NUM_TRAIN // 8
    tokenizer, data, task = tiny_tokenizer(), load_task("rte", data_dir), GLUE_TASKS["rte"]
    classifier = with_fresh_head(make_teacher().base_model, 2, dropout=0.1, seed=1)
    rows = encoded_rows(task, data.train, tokenizer, 24)
    trained = fine_tune(classifier, rows, tokenizer, settings=GlueSettings(**QUICK | {"learning_rate": 1e-3}), seed=1)
    assert trained.train_loss == record["train_loss"]
    encoded = encoded_rows(task, data.dev["validation"], tokenizer, 24)
    rows = encoded.remove_columns(["labels", "length"])
    given = [int(logits.argmax()) for (logits,) in logits_of_rows(trained.model, rows, tokenizer, "logits")]
    assert record["metrics"] == {"accuracy": accuracy_score(encoded["labels"][:], given)}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [(4,), (13,), (22, 2), (34,)], ids=["rate 1", "rate 2", "seed 0, twice", "seed 1"])
def test_what_sigterm_stopped_goes_on_in_its_training(data_dir, model, tmp_path, steps):
    settings = {**QUICK, "data_dir": str(data_dir), "seeds": [0, 1], "num_train_epochs": 2}
    settings |= {"learning_rate": None, "learning_rates": [1e-4, 1e-3]}
    whole = evaluate_glue(model, "rte", settings=settings, output_dir=tmp_path / "whole")
    results = tmp_path / "results"
    for step in steps:
        with sigterm_at(FineTuningTrainer, step), pytest.raises(SystemExit, match="143"):
            evaluate_glue(model, "rte", settings=settings, output_dir=results)
        assert len([path for path in results.glob(".rte.*") if last_checkpoint(path)]) == 1
    with sigterm_at(FineTuningTrainer, None) as seen:
        assert evaluate_glue(model, "rte", settings=settings, output_dir=results) == whole
    assert len(seen) == 40 - sum(steps)
    files = [sorted(path.name for path in folder.iterdir()) for folder in (results, tmp_path / "whole")]
    assert files[0] == files[1]
    for name in ("rte.seed-0.json", "rte.seed-1.json"):
        found, expected = (json.loads((folder / name).read_text()) for folder in (results, tmp_path / "whole"))
        assert found["train_loss"] == expected["train_loss"]


@pytest.mark.slow
def test_a_training_of_other_settings_is_not_gone_on_with(data_dir, model, tmp_path):
    settings = {**QUICK, "data_dir": str(data_dir), "seeds": [0]}
    with sigterm_at(FineTuningTrainer, 2), pytest.raises(SystemExit, match="143"):
        evaluate_glue(model, "rte", settings=settings, output_dir=tmp_path)
    with sigterm_at(FineTuningTrainer, None) as seen:
        evaluate_glue(model, "rte", settings=settings | {"weight_decay": 0.5}, output_dir=tmp_path)
    assert seen == [0, 1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rte.seed-0.json", "summary.json"]


@pytest.mark.slow
@pytest.mark.parametrize(("num_labels", "dtype"), [(3, "float32"), (1, "float32"), (3, "bfloat16")])
def test_the_weights_are_those_of_a_stock_trainer(num_labels, dtype):
    lengths = [3 + row % 9 for row in range(45)]
    rows = [
        {"input_ids": [5 + row % 80] * length, "labels": row % 3 / num_labels, "length": length}
        for row, length in enumerate(lengths)
    ]
    data = Dataset.from_list(rows if num_labels == 1 else [row | {"labels": int(row["labels"] * 3)} for row in rows])
    settings = GlueSettings(**QUICK | {"num_train_epochs": 3, "dtype": dtype, "learning_rate": 1e-3})
    models = [with_fresh_head(make_teacher().base_model, num_labels, dropout=0.1, seed=0) for _ in range(2)]
    fine_tune(models[0], data, tiny_tokenizer(), settings=settings, seed=3)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            warmup_steps=0.1,
            weight_decay=0.01,
            bf16=dtype == "bfloat16",
            seed=3,
            use_cpu=fastest_device().type == "cpu",
            num_train_epochs=3,
            save_strategy="no",
            report_to="none",
        )
        collate = DataCollatorWithPadding(tiny_tokenizer(), pad_to_multiple_of=8)
        stock = Trainer(models[1], arguments, train_dataset=data, data_collator=collate)
        stock._get_train_sampler = partial(LengthSampler, batch_size=8, seed=3)
        stock.train()
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name


@pytest.mark.slow
def test_similarities_are_a_regression(data_dir, model, tmp_path):
    settings = {**QUICK, "data_dir": str(data_dir), "seeds": 0}
    summary = evaluate_glue(model, "stsb", settings=settings, output_dir=tmp_path)
    found = summary["tasks"]["stsb"]
    assert found["metrics"].keys() == {"pearson", "spearmanr"}
    assert found["score"]["mean"] == pytest.approx(np.mean([value["mean"] for value in found["metrics"].values()]))
    assert found["score"]["std"] is None


# Settings


@each(
    ("given", "num_rows", "steps"),
    [
        ({}, 10, LEAST_STEPS),
        ({}, 100_000, 9375),
        ({"num_train_epochs": 1}, 33, 2),
        ({"num_train_epochs": 0.5}, 320, 5),
        ({"max_train_steps": 7}, 100_000, 7),
        ({"max_train_steps": 7, "num_train_epochs": 1}, 33, 2),
    ],
)
def test_steps_follow_from_the_rows(given, num_rows, steps):
    assert GlueSettings(**given).num_steps(num_rows, batch_size=32) == steps


@each(
    ("values", "message"),
    [
        ({"seeds": []}, "names no seed"),
        ({"seeds": [1, 1]}, r"seeds=\(1, 1\) has one twice"),
        ({"seeds": -1}, "seeds=-1 is not a whole number from 0 to 4294967295"),
        ({"learning_rate": 0}, r"learning_rate=0 is outside \(0, inf\)"),
        ({"learning_rate": 1e-4, "learning_rates": [1e-4, 1e-3]}, "exclude each other; give one rate, or several"),
        ({"max_train_steps": 0}, "max_train_steps=0 is not a whole number of at least 1"),
        ({"learning_rates": [1e-4, float("nan")]}, "learning_rates=nan is outside"),
        ({"num_train_epochs": True}, "num_train_epochs=True; expected a number or null"),
        ({"batch_size": 1.5}, "batch_size=1.5; expected a whole number"),
        ({"max_train_samples": 4}, "max_train_samples=4 is not a whole number of at least 8"),
        ({"warmup_fraction": 1}, r"warmup_fraction=1 is outside \[0, 1\)"),
        ({"dtype": "bf16"}, "dtype='bf16' is not one of auto, bfloat16, float32"),
        ({"batchsize": 8}, "unknown key 'batchsize' .*; nearest valid: 'batch_size'"),
    ],
)
def test_settings_are_checked_when_they_are_made(values, message):
    with pytest.raises(ValueError, match=message):
        settings_from(GlueSettings, values)


# Bars


@pytest.mark.slow
def test_a_terminal_gets_a_bar_of_each_training(given, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    run(given, learning_rate=None, learning_rates=[1e-3, 3e-3], max_train_steps=3)
    assert capsys.readouterr().err.count("| 3/3 [") >= 3
    write_teacher(tmp_path / "model")
    write_task(tmp_path, "rte")
    settings = {"data_dir": str(tmp_path), "learning_rate": 1e-3, "seeds": 0, "max_train_steps": 3}
    evaluate_glue(tmp_path / "model", "rte", settings=settings, output_dir=tmp_path / "results")
    printed = capsys.readouterr()
    assert "| 3/3 [" in printed.err
    assert "train_runtime" not in printed.out + printed.err


@pytest.mark.slow
def test_elsewhere_there_is_no_bar(given, capsys):
    run(given, max_train_steps=3)
    assert "3/3" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["contradiction", "neutral", "entailment"], [2, 1, 0]),
        (["Contradiction", "Neutral", "Entailment"], [2, 1, 0]),
        (["contradiction", "neutral", "entailment", "-"], [2, 1, 0]),
        (["0", "1", "2"], [0, 1, 2]),
        (["Contra", "neut", "Entail"], [2, 1, 0]),
        (["no", "maybe", "yes"], None),
    ],
)
def test_classes_are_the_tasks_by_their_names(tmp_path, names, expected):
    (tmp_path / "mnli").mkdir()
    rows = Dataset.from_dict({"premise": ["a"] * 3, "hypothesis": ["b"] * 3, "label": [0, 1, 2]})
    rows = rows.cast_column("label", ClassLabel(names=names))
    for split in ("train", "validation_matched", "validation_mismatched"):
        rows.to_parquet(tmp_path / "mnli" / f"{split}.parquet")
    if expected is None:
        with pytest.raises(ValueError, match="numbers the classes no, maybe, yes; expected entailment, neutral, con"):
            load_task("mnli", tmp_path)
    else:
        assert load_task("mnli", tmp_path).train["label"][:] == expected


def test_classes_as_words_are_read_as_those_of_a_feature(tmp_path):
    (tmp_path / "rte").mkdir()
    words = ["Not entailment", "not-entailment", "Entailment "]
    rows = Dataset.from_dict({"sentence1": ["a"] * 3, "sentence2": ["b"] * 3, "label": words})
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / "rte" / f"{split}.parquet")
    assert load_task("rte", tmp_path).train["label"][:] == [1, 1, 0]
