"""Labels that a task can and can not have: their values, names and numbers, before training and in batches."""

import logging
import math
from functools import partial
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset, List
from rows import each
from tiny_models import make_teacher
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from homodistil_hf.distillation.tasks import task_of
from homodistil_hf.training.row_checks import check_label_rows

pytestmark = pytest.mark.slow

SEVERAL = {"problem_type": "multi_label_classification", "num_labels": 3}
QUESTIONS = "question_answering"
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


def labelled(labels: list[Any], column: str = "labels") -> Dataset:
    return Dataset.from_dict({"input_ids": [[2, 5, 6, 3]] * len(labels), column: labels})


@pytest.mark.parametrize(
    ("task", "config", "rows", "message"),
    [
        ("sequence_classification", {}, labelled([0, 1, -1], "label"), r"'label' of train_dataset has the label -1; "),
        ("sequence_classification", {"num_labels": 3}, labelled([1, 2, 3]), "the label 3; expected 0 … 2, as .* 3 cl"),
        ("token_classification", {}, labelled([[0, 1, 2, -100]]), "the label 2; expected 0 … 1, as the model has 2"),
        ("token_classification", {}, labelled([[0, 1, 0]]), "3 labels in a row of 4 tokens; expected one a token"),
        ("token_classification", {}, labelled([1, 0]), "1 labels in a row of 4 tokens; expected one a token"),
        ("sequence_classification", {}, labelled([[0, 1], [1, 0]]), "2 labels .* one-hot labels, set config"),
        ("sequence_classification", {}, labelled(["0", "1"]), "holds values of type string; expected numbers"),
        ("sequence_classification", {}, labelled([0, None]), "has rows without a label; drop them"),
        ("sequence_classification", SEVERAL, labelled([0, 2]), "1 labels .*; expected 3, .*'single_label_classificat"),
        ("sequence_classification", SEVERAL, labelled([[1, 0, 1], [0, 2]]), "2 labels .*; expected 3, one for each"),
        ("sequence_classification", SEVERAL, labelled([[1, 0, -100]]), "the label -100; expected 0 or 1 for each"),
        ("sequence_classification", {"num_labels": 1}, labelled([0.5, math.nan]), "the label nan; expected a finite"),
        ("sequence_classification", SEVERAL | {"problem_type": "regression"}, labelled([0.5]), "expected 3, one"),
    ],
)
def test_labels_that_a_task_can_not_have_are_refused_when_a_trainer_is_made(make_trainer, task, config, rows, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(model=make_teacher(task, **config), train_dataset=rows)
    with pytest.raises(ValueError, match=message.replace("train_dataset", r"eval_dataset\['bad'\]")):
        make_trainer(model=make_teacher(task, **config), eval_dataset={"bad": rows}, train_dataset=None)


@pytest.mark.parametrize(
    ("task", "last", "message"),
    [
        ("sequence_classification", 2, "the label 2; expected 0 … 1"),
        ("sequence_classification", None, "rows without a label; drop them"),
        ("token_classification", [0, 1, 0, 2], "the label 2; expected 0 … 1"),
        ("token_classification", [0, 1, 0], "3 labels in a row of 4 tokens; expected one a token"),
    ],
)
def test_the_last_label_of_a_long_table_is_looked_at(make_trainer, task, last, message):
    model, good = make_teacher(task), 1 if task.startswith("seq") else [0, 1, 0, -100]
    rows = labelled([good] * 20_000 + [last])
    for given in (rows, rows.shuffle(seed=0), rows.select([20_000, *range(15_000)])):
        with pytest.raises(ValueError, match=f"'labels' of train_dataset has {message}"):
            make_trainer(model=model, train_dataset=given)
    for given in (rows.select(range(20_000)), rows.shuffle(seed=0).filter(lambda row: row["labels"] == good)):
        check_label_rows({"train_dataset": given}, task_of(model), None)
    batch = rows.to_iterable_dataset()
    check_label_rows(
        {"train_dataset": batch, "eval_dataset": list(rows.select(range(20_000, 20_001)))}, task_of(model), None
    )


def test_labels_that_all_count_for_none_are_refused(make_trainer):
    classifier, rows = make_teacher("sequence_classification"), labelled([0] * 5 + [-100] * 20_000)
    check_label_rows({"train_dataset": rows}, task_of(classifier), None)
    none = rows.select(range(5, 20_005))
    for task, name, given in (
        ("sequence_classification", "train_dataset", {"train_dataset": none}),
        ("token_classification", "train_dataset", {"train_dataset": tokens(-100), "eval_dataset": None}),
        ("sequence_classification", "eval_dataset", {"train_dataset": rows, "eval_dataset": none}),
    ):
        with pytest.raises(ValueError, match=f"^column 'labels' of {name} has no label but -100, which counts for n"):
            make_trainer(model=make_teacher(task), **given)


@each(
    ("task", "config", "labels"),
    [
        ("sequence_classification", {}, [0, 1, -100]),
        ("sequence_classification", {}, [[0], [1]]),
        ("sequence_classification", {}, [True, False]),
        ("sequence_classification", SEVERAL, [[True, False, True]]),
        ("sequence_classification", SEVERAL, [[0.5, 0.0, 1.0]]),
        ("sequence_classification", {"num_labels": 1}, [-100, 7]),
        ("token_classification", {}, [[-100, 0, 1, -100]]),
    ],
)
def test_labels_that_a_task_can_have_pass(task, config, labels):
    check_label_rows({"train_dataset": labelled(labels)}, task_of(make_teacher(task, **config)), None)


def test_labels_that_a_collator_or_a_transform_makes_are_seen_in_batches():
    task, rows = task_of(make_teacher("sequence_classification")), labelled([1, 2])
    check_label_rows({"train_dataset": rows}, task, lambda rows: {"labels": [row["labels"] - 1 for row in rows]})
    check_label_rows({"train_dataset": rows.with_transform(lambda batch: batch)}, task, None)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 0, 2], "^a batch has the label 2; expected 0 … 1, as the model has 2 classes, or -100 for none"),
        ([[0, 1]] * 4, "^a batch has 2 labels in a row of 4 tokens; expected the number of one class; for several"),
        ([0.0, 1.0] * 2, "^labels of type torch.float32 don't fit a task of single classes; set config.problem_type"),
    ],
)
def test_a_label_that_nobody_looked_at_stops_training_and_evaluation_in_words(make_trainer, labels, message):
    rows = labelled(labels).to_iterable_dataset()
    trainer = make_trainer(
        model=make_teacher("sequence_classification"), train_dataset=rows, max_steps=1, per_device_train_batch_size=4
    )
    for use in (partial(trainer.evaluate, rows), trainer.train):
        with pytest.raises(ValueError, match=message):
            use()
    assert trainer.state.global_step == 0


def test_booleans_are_the_classes_0_and_1(make_trainer):
    model = make_teacher("sequence_classification")
    trainers = [make_trainer(model=model, train_dataset=None) for _ in range(2)]
    losses = [
        trainer.evaluate(labelled(labels))["eval_task_loss"]
        for trainer, labels in zip(trainers, ([True, False] * 4, [1, 0] * 4), strict=True)
    ]
    assert losses[0] == losses[1]


def test_a_student_that_gives_one_class_is_told_among_its_metrics(make_trainer):
    trainer = make_trainer(model=make_teacher("sequence_classification"), train_dataset=None)
    assert trainer.evaluate(labelled([0, 1] * 4))["eval_is_constant"]  # one text for all rows
    first, other = trainer.predict(sequences([0, 1])).predictions[:2]
    middle = torch.as_tensor(first + other) / 2
    trainer.model.classifier.bias.data -= middle
    assert "eval_is_constant" not in trainer.evaluate(sequences([0, 1]))


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
    tagged = {"dev": tokens().cast_column("labels", List(ClassLabel(names=["neutral", "entailment"])))}
    with pytest.raises(ValueError, match=r"^column 'labels' of eval_dataset\['dev'\] has 'neutral' as class 0, the m"):
        make_trainer(model=named_classifier("token_classification"), train_dataset=tokens(), eval_dataset=tagged)


@pytest.mark.parametrize("names", [WORDS, ["no", "maybe", "yes"], ["CONTRADICTION", "neutral", "yes"]])
def test_names_that_agree_or_that_only_one_side_has_pass(make_trainer, names):
    rows = sequences([0, 1, 2]).cast_column("labels", ClassLabel(names=names))
    make_trainer(model=named_classifier(), train_dataset=rows, eval_dataset=rows)


# Rows without labels


def test_a_table_without_labels_is_no_training_data(make_trainer):
    for task, rows, missing in (
        ("sequence_classification", sequences([0, 1], "target"), "target, but not labels"),
        (QUESTIONS, sequences([1], "end_positions"), "end_positions, but not start_positions, end_positions"),
        (QUESTIONS, sequences([1], "answers"), "answers, but not start_positions, end_positions"),
    ):
        message = f"^train_dataset has the columns input_ids, {missing}; rename the column that holds the labels$"
        with pytest.raises(ValueError, match=message):
            make_trainer(model=make_teacher(task), train_dataset=rows, eval_dataset=None)
    rows = sequences([1], "start_positions").add_column("end_positions", [1] * 16)
    make_trainer(model=make_teacher(QUESTIONS), train_dataset=rows, eval_dataset=None)


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


# Rows of tags, and rows that a transform makes


def test_labels_of_tokens_are_padded_by_default(make_trainer, tokenizer):
    teacher = make_teacher("token_classification")
    given = {"train_dataset": tokens(), "eval_dataset": tokens(), "max_steps": 2}
    trainer = make_trainer(model=teacher, **given)
    named = make_trainer(model=teacher, data_collator=DataCollatorForTokenClassification(tokenizer), **given)
    for one in (trainer, named):
        one.train()
    assert trainer.evaluate()["eval_loss"] == named.evaluate()["eval_loss"]
    assert torch.equal(trainer.model.classifier.weight, named.model.classifier.weight)


def test_rows_tokenized_by_a_transform_train_as_those_of_a_table(trained, tokenizer):
    texts = Dataset.from_dict({"text": [f"w{5 + i} w{6 + i}" for i in range(16)], "labels": [0, 1] * 8})
    late = texts.with_transform(lambda batch: {**tokenizer(batch["text"]), "labels": batch["labels"]})
    table = texts.map(lambda batch: tokenizer(batch["text"]), batched=True)
    model, runs = make_teacher("sequence_classification"), []
    for rows, settings in ((late, {"remove_unused_columns": False}), (table, {})):
        trainer = trained(model=model, train_dataset=rows, eval_dataset=rows, max_steps=2, **settings)
        runs.append(trainer.model.classifier.weight)
    assert torch.equal(*runs)
