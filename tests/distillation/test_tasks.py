import pytest
import torch
from students import NUM_PADDED, TASKS, make_batch, make_student, unlabelled
from task_cases import CASES, make_case

from homodistil_hf.data.masking import IGNORED_LABEL
from homodistil_hf.distillation.losses import multi_label_terms, prediction_terms, regression_terms
from homodistil_hf.distillation.tasks import Task, masked_positions, task_of


@pytest.mark.parametrize("case", CASES)
def test_the_mean_loss_is_stock_berts(case):
    teacher, student, inputs = make_case(case)
    task = task_of(student)
    with torch.no_grad():
        outputs = student(**task.model_inputs(inputs))
        rows = task.rows(outputs, inputs)
        loss, kl = task.terms(rows, rows.clone(), task.labels(inputs))
        integers = case == "regression of integers"  # stock BERT's own loss wants floats
        expected = teacher(**inputs | ({"labels": inputs["labels"].float()} if integers else {})).loss
    assert "loss" not in outputs
    assert float(loss / task.num_predictions(inputs)) == pytest.approx(float(expected), rel=1e-5)
    assert float(kl) == pytest.approx(0, abs=1e-6)
    assert task.name == ("mlm" if case == "masked_lm" else "task")


@pytest.mark.parametrize("case", CASES)
def test_there_are_as_many_rows_as_labels_and_predictions(case):
    _, student, inputs = make_case(case)
    task = task_of(student)
    rows = task.rows(student(**task.model_inputs(inputs)), inputs)
    assert len(rows) == len(task.labels(inputs)) == int(task.num_predictions(inputs)) > 0
    assert rows.dim() == 2
    assert task.num_predictions(inputs).dtype == torch.int64


@pytest.mark.parametrize(
    ("task", "problem_type", "num_labels", "terms", "has_classes"),
    [
        ("masked_lm", None, 2, prediction_terms, True),
        ("token_classification", None, 5, prediction_terms, True),
        ("question_answering", None, 2, prediction_terms, True),
        ("sequence_classification", None, 1, regression_terms, False),
        ("sequence_classification", None, 2, prediction_terms, True),
        ("sequence_classification", "single_label_classification", 3, prediction_terms, True),
        ("sequence_classification", "regression", 4, regression_terms, False),
        ("sequence_classification", "multi_label_classification", 4, multi_label_terms, False),
    ],
)
def test_the_task_is_told_by_class_and_problem_type(task, problem_type, num_labels, terms, has_classes):
    found = task_of(make_student(task, problem_type=problem_type, num_labels=num_labels))
    assert (found.terms, found.has_classes) == (terms, has_classes)


# Which inputs are labels


@pytest.mark.parametrize(
    ("task", "required"),
    [
        ("masked_lm", ("labels",)),
        ("sequence_classification", ("labels",)),
        ("token_classification", ("labels",)),
        ("question_answering", ("start_positions", "end_positions")),
    ],
)
def test_models_get_everything_but_labels(task, required):
    found = task_of(make_student(task))
    inputs = make_batch(task) | {"token_type_ids": torch.zeros(4, 12, dtype=torch.int64)}
    passed = found.model_inputs(inputs)
    extra = {"masked_positions"} if task == "masked_lm" else set()
    assert passed.keys() == {"input_ids", "attention_mask", "token_type_ids"} | extra
    assert found.required_labels == required


def test_masked_positions_are_those_with_labels():
    labels = torch.tensor([[IGNORED_LABEL, 5, IGNORED_LABEL], [7, IGNORED_LABEL, 0]])
    assert masked_positions({"labels": labels}).tolist() == [1, 3, 5]
    given = torch.tensor([3, 1])
    assert masked_positions({"labels": labels, "masked_positions": given}) is given
    task = task_of(make_student())
    assert task.labels({"labels": labels}).tolist() == [5, 7, 0]
    assert task.labels({"labels": labels, "masked_positions": given}).tolist() == [7, 5]
    assert int(task.num_predictions({"labels": labels})) == 3
    assert task.model_inputs({"labels": labels})["masked_positions"].tolist() == [1, 3, 5]


# What counts


def by_hand(task: str, inputs: dict[str, torch.Tensor], logits: dict[str, torch.Tensor]) -> tuple[list, list]:
    found: Task = task_of(make_student(task))
    return found.rows(logits, inputs).tolist(), found.labels(inputs).tolist()


def test_tokens_without_label_are_left_out():
    logits = torch.arange(12.0).view(2, 3, 2)
    labels = torch.tensor([[1, IGNORED_LABEL, 0], [IGNORED_LABEL, IGNORED_LABEL, 1]])
    rows, kept = by_hand("token_classification", {"labels": labels}, {"logits": logits})
    assert (rows, kept) == ([[0.0, 1.0], [4.0, 5.0], [10.0, 11.0]], [1, 0, 1])


def test_padding_has_no_predictions():
    inputs = make_batch("token_classification")
    assert int(task_of(make_student("token_classification")).num_predictions(inputs)) == 4 * 12 - NUM_PADDED


def test_sequences_without_label_are_left_out():
    logits = torch.arange(6.0).view(3, 2)
    rows, kept = by_hand(
        "sequence_classification", {"labels": torch.tensor([[1], [IGNORED_LABEL], [0]])}, {"logits": logits}
    )
    assert (rows, kept) == ([[0.0, 1.0], [4.0, 5.0]], [1, 0])


def test_answers_outside_the_tokens_are_left_out():
    logits = {"start_logits": torch.arange(6.0).view(2, 3), "end_logits": torch.arange(6.0, 12.0).view(2, 3)}
    inputs = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}
    inputs |= {"start_positions": torch.tensor([2, 3]), "end_positions": torch.tensor([IGNORED_LABEL, 0])}
    rows, kept = by_hand("question_answering", inputs, logits)
    assert (rows, kept) == ([[0.0, 1.0, 2.0], [9.0, 10.0, 11.0]], [2, 0])


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_without_labels_counts_nothing(task):
    student, inputs = make_student(task), make_batch(task)
    inputs |= {
        name: torch.full_like(inputs[name], IGNORED_LABEL) for name in inputs.keys() - unlabelled(inputs).keys()
    }
    found = task_of(student)
    rows = found.rows(student(**found.model_inputs(inputs)), inputs)
    loss, kl = found.terms(rows, rows.detach() + 1, found.labels(inputs))
    assert (int(found.num_predictions(inputs)), float(loss.detach()), float(kl.detach())) == (0, 0.0, 0.0)


@pytest.mark.parametrize("task", TASKS)
def test_kl_and_loss_are_taken_at_the_same_places(task):
    """What the logits are anywhere else changes neither."""
    student, inputs = make_student(task), make_batch(task)
    if task == "sequence_classification":
        inputs["labels"][1] = IGNORED_LABEL
    if task == "question_answering":
        inputs["start_positions"][1] = 12
    found = task_of(student)
    with torch.no_grad():
        outputs = student(**unlabelled(inputs))
        if task == "masked_lm":
            outputs = {"logits": outputs.logits.flatten(0, 1)[masked_positions(inputs)]}
    rows = found.rows(outputs, inputs)
    labels = found.labels(inputs)
    slow_loss = -sum(float(row.log_softmax(-1)[label]) for row, label in zip(rows, labels.tolist(), strict=True))
    other = rows.flip(-1)
    slow_kl = sum(
        float((t.softmax(-1) * (t.log_softmax(-1) - s.log_softmax(-1))).sum())
        for s, t in zip(rows, other, strict=True)
    )
    loss, kl = found.terms(rows, other, labels)
    assert (float(loss), float(kl)) == pytest.approx((slow_loss, slow_kl), rel=1e-4)
    expected = {"sequence_classification": 3, "question_answering": 7}.get(
        task, int((inputs.get("labels", labels) >= 0).sum())
    )
    assert len(rows) == expected
