"""Labels that a task can and can not have, before training and in batches."""

import math
from typing import Any

import pytest
from datasets import Dataset
from rows import each
from tiny_models import make_teacher

from homodistil_hf.distillation.tasks import task_of
from homodistil_hf.training.row_checks import check_label_rows

SEVERAL = {"problem_type": "multi_label_classification", "num_labels": 3}


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
        (
            "sequence_classification",
            {},
            labelled([[0, 1], [1, 0]]),
            "2 labels .* one-hot labels, set config",
        ),
        ("sequence_classification", {}, labelled(["0", "1"]), "holds values of type string; expected numbers"),
        ("sequence_classification", {}, labelled([0, None]), "has rows without a label; drop them"),
        ("sequence_classification", SEVERAL, labelled([0, 2]), "1 labels .*; expected 3, .*'single_label_classificat"),
        ("sequence_classification", SEVERAL, labelled([[1, 0, 1], [0, 2]]), "2 labels .*; expected 3, one for each"),
        ("sequence_classification", SEVERAL, labelled([[1, 0, -100]]), "the label -100; expected 0 or 1 for each"),
        ("sequence_classification", {"num_labels": 1}, labelled([0.5, math.nan]), "the label nan; expected a finite"),
        (
            "sequence_classification",
            SEVERAL | {"problem_type": "regression"},
            labelled([0.5]),
            "expected 3, one",
        ),
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


def test_rows_that_are_chosen_must_have_a_label_that_counts(make_trainer):
    rows = labelled([0] * 5 + [-100] * 20_000)
    check_label_rows({"train_dataset": rows}, task_of(make_teacher("sequence_classification")), None)
    with pytest.raises(ValueError, match="has no label but -100"):
        make_trainer(model=make_teacher("sequence_classification"), train_dataset=rows.select(range(5, 20_005)))


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
        (
            [0, 1, 0, 2],
            "^a batch has the label 2; expected 0 … 1, as the model has 2 classes, or -100 for none",
        ),
        ([[0, 1]] * 4, "^a batch has 2 labels in a row of 4 tokens; expected the number of one class; for several"),
        ([0.0, 1.0] * 2, "^labels of type torch.float32 don't fit a task of single classes; set config.problem_type"),
    ],
)
def test_a_label_that_nobody_looked_at_stops_training_and_evaluation_in_words(make_trainer, labels, message):
    rows = labelled(labels).to_iterable_dataset()
    trainer = make_trainer(
        model=make_teacher("sequence_classification"), train_dataset=rows, max_steps=1, per_device_train_batch_size=4
    )
    with pytest.raises(ValueError, match=message):
        trainer.evaluate(rows)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_booleans_are_the_classes_0_and_1(make_trainer):
    losses = []
    for labels in ([True, False] * 4, [1, 0] * 4):
        model = make_teacher("sequence_classification")
        losses.append(make_trainer(model=model, train_dataset=None).evaluate(labelled(labels))["eval_task_loss"])
    assert losses[0] == losses[1]
