"""Rows and the model must mean the same by a label; rows without any that counts are no data."""

import logging
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, List
from tiny_models import make_teacher
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

WORDS = ["contradiction", "neutral", "entailment"]


def sequences(labels: list[Any], column: str = "labels", *, num_rows: int = 16) -> Dataset:
    rows = [{"input_ids": [2, 5 + i, 6, 3], column: labels[i % len(labels)]} for i in range(num_rows)]
    return Dataset.from_list(rows)


def tokens(label: int = 1, lengths: tuple[int, ...] = (4, 7)) -> Dataset:
    sizes = [lengths[i % len(lengths)] for i in range(16)]
    return Dataset.from_list([{"input_ids": [2, *[5] * (n - 2), 3], "labels": [label] * n} for n in sizes])


def named_classifier(task: str = "sequence_classification") -> Any:
    teacher = make_teacher(task, num_labels=3)
    teacher.config.id2label = dict(enumerate(WORDS))
    teacher.config.label2id = {word: number for number, word in enumerate(WORDS)}
    return teacher


# Names


def test_rows_that_number_the_classes_otherwise_are_refused(make_trainer):
    rows = sequences([0, 1, 2]).cast_column("labels", ClassLabel(names=["Entailment", "neutral", "Contradiction"]))
    message = (
        "^column 'labels' of train_dataset has 'Entailment' as class 0, the model as class 2; number the rows as the "
        r"model does: rows\.align_labels_with_mapping\(model\.config\.label2id, column\)$"
    )
    teacher = named_classifier()
    with pytest.raises(ValueError, match=message):
        make_trainer(model=teacher, train_dataset=rows, eval_dataset=None)
    aligned = rows.align_labels_with_mapping(teacher.config.label2id, "labels")
    make_trainer(model=teacher, train_dataset=aligned, eval_dataset=None)


def test_tags_that_are_numbered_otherwise_are_refused(make_trainer):
    tagged = tokens().cast_column("labels", List(ClassLabel(names=["neutral", "entailment"])))
    with pytest.raises(
        ValueError, match=r"^column 'labels' of eval_dataset\['dev'\] has 'neutral' as class 0, the mo"
    ):
        make_trainer(
            model=named_classifier("token_classification"), train_dataset=tokens(), eval_dataset={"dev": tagged}
        )


@pytest.mark.parametrize("names", [WORDS, ["no", "maybe", "yes"], ["CONTRADICTION", "neutral", "yes"]])
def test_names_that_agree_or_that_only_one_side_has_pass(make_trainer, names):
    rows = sequences([0, 1, 2]).cast_column("labels", ClassLabel(names=names))
    make_trainer(model=named_classifier(), train_dataset=rows, eval_dataset=rows)


# Rows without labels


@pytest.mark.parametrize(
    ("task", "rows", "missing"),
    [
        ("sequence_classification", sequences([0, 1], "target"), "target, but not labels"),
        ("question_answering", sequences([1], "start_positions"), None),
        (
            "question_answering",
            sequences([1], "end_positions"),
            "end_positions, but not start_positions, end_positions",
        ),
        ("question_answering", sequences([1], "answers"), "answers, but not start_positions, end_positions"),
    ],
)
def test_a_table_without_labels_is_no_training_data(make_trainer, task, rows, missing):
    if missing is None:
        rows = rows.add_column("end_positions", [1] * len(rows))
        make_trainer(model=make_teacher(task), train_dataset=rows, eval_dataset=None)
        return
    message = f"^train_dataset has the columns input_ids, {missing}; rename the column that holds the labels$"
    with pytest.raises(ValueError, match=message):
        make_trainer(model=make_teacher(task), train_dataset=rows, eval_dataset=None)


def test_rows_to_evaluate_on_need_labels_only_if_the_run_evaluates(make_trainer, caplog):
    parts = {"train_dataset": sequences([0, 1]), "eval_dataset": sequences([0], "target")}
    teacher = make_teacher("sequence_classification")
    with pytest.raises(ValueError, match="^eval_dataset has the columns input_ids, target, but not labels; rename"):
        make_trainer(model=teacher, eval_strategy="epoch", **parts)
    trainer = make_trainer(
        model=teacher, data_collator=DataCollatorWithPadding(make_trainer().processing_class), **parts
    )
    with caplog.at_level(logging.WARNING):
        assert "eval_loss" not in trainer.evaluate()
    assert "eval: no label counts, so nothing was measured; check the rows" in caplog.text
    caplog.clear()
    assert len(trainer.predict(parts["eval_dataset"]).predictions) == 16
    assert not caplog.text


def test_labels_that_all_count_for_none_are_refused(make_trainer):
    message = "^column 'labels' of train_dataset has no label but -100, which counts for none; check how labels are m"
    with pytest.raises(ValueError, match=message):
        make_trainer(model=make_teacher("token_classification"), train_dataset=tokens(-100), eval_dataset=None)
    with pytest.raises(ValueError, match="^column 'labels' of eval_dataset has no label but -100"):
        make_trainer(
            model=make_teacher("sequence_classification"),
            train_dataset=sequences([0, -100]),
            eval_dataset=sequences([-100]),
        )


def test_a_loss_of_no_predictions_is_not_the_best_loss(make_trainer, caplog):
    trainer = make_trainer(model=make_teacher("token_classification"), train_dataset=tokens(), eval_dataset=None)
    assert trainer.evaluate(tokens())["eval_loss"] > 0
    assert not {"eval_loss", "eval_kl"} & trainer.evaluate(tokens(-100)).keys()
    assert "no label counts" in caplog.text


# Rows of tags, and rows that a transform makes


def test_labels_of_tokens_are_padded_by_default(make_trainer, tokenizer):
    teacher = make_teacher("token_classification")
    given = {"train_dataset": tokens(), "eval_dataset": tokens(), "max_steps": 2}
    trainer = make_trainer(model=teacher, **given)
    named = make_trainer(model=teacher, data_collator=DataCollatorForTokenClassification(tokenizer), **given)
    for each in (trainer, named):
        each.train()
    assert trainer.evaluate()["eval_loss"] == named.evaluate()["eval_loss"]
    assert torch.equal(trainer.model.classifier.weight, named.model.classifier.weight)


def test_rows_tokenized_by_a_transform_train_as_those_of_a_table(make_trainer, tokenizer):
    texts = Dataset.from_dict({"text": [f"w{5 + i} w{6 + i}" for i in range(16)], "labels": [0, 1] * 8})
    late = texts.with_transform(lambda batch: {**tokenizer(batch["text"]), "labels": batch["labels"]})
    table = texts.map(lambda batch: tokenizer(batch["text"]), batched=True)
    runs = []
    for rows, settings in ((late, {"remove_unused_columns": False}), (table, {})):
        given = {"train_dataset": rows, "eval_dataset": rows, "max_steps": 2}
        trainer = make_trainer(model=make_teacher("sequence_classification"), **given, **settings)
        trainer.train()
        runs.append(trainer.model.classifier.weight)
    assert torch.equal(*runs)


def test_a_transform_of_columns_that_would_be_removed_is_refused(make_trainer, tokenizer):
    texts = Dataset.from_dict({"sentence": ["w5 w6"] * 16, "label": [0, 1] * 8})
    late = texts.with_transform(lambda batch: {**tokenizer(batch["sentence"]), "labels": batch["label"]})
    message = (
        "^eval_dataset makes input_ids by a transform of its columns sentence, label, which Trainer would remove; set "
        "remove_unused_columns=False$"
    )
    with pytest.raises(ValueError, match=message):
        make_trainer(model=make_teacher("sequence_classification"), train_dataset=sequences([0, 1]), eval_dataset=late)
