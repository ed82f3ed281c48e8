import pytest
import torch
from rows import each
from students import NUM_PADDED, make_batch, make_student, unlabelled
from task_cases import CASES, make_case, stock_loss
from tiny_models import make_teacher

from homodistil_hf.data.masking import IGNORED_LABEL, UNKNOWN_CLASS, UNKNOWN_VALUE
from homodistil_hf.distillation.task_scores import TaskMeter
from homodistil_hf.distillation.tasks import Task, sequence_task, task_of


@pytest.mark.slow
@each("case", CASES)
def test_the_mean_loss_is_stock_berts(case):
    teacher, student, given = make_case(case)
    task = task_of(student)
    inputs = task.with_positions(given)
    with torch.no_grad():
        outputs = student(**task.model_inputs(inputs, student))
        rows = task.rows(outputs, inputs)
        loss, kl = task.terms(rows, rows.clone(), task.labels(inputs))
        integers = case == "regression of integers"  # stock BERT's own loss wants floats
        expected = stock_loss(teacher, given | ({"labels": given["labels"].float()} if integers else {}))
    assert "loss" not in outputs
    assert len(rows) == len(task.labels(inputs)) == len(inputs["masked_positions"]) > 0
    assert (rows.dim(), inputs["masked_positions"].dtype) == (2, torch.int64)
    assert float(loss / len(inputs["masked_positions"])) == pytest.approx(expected, rel=1e-5)
    assert float(kl) == pytest.approx(0, abs=1e-6)
    assert task.name == ("mlm" if case == "masked_lm" else "task")


# Which inputs are labels


@each(
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
    passed = found.model_inputs(found.with_positions(inputs))
    extra = {"masked_positions"} if task == "masked_lm" else set()
    assert passed.keys() == {"input_ids", "attention_mask", "token_type_ids"} | extra
    assert passed["attention_mask"] is inputs["attention_mask"]
    assert found.required_labels == required
    assert found.label_names == (*required, "masked_positions")


def test_masked_positions_are_those_with_labels():
    task = task_of(make_student())
    labels = torch.tensor([[IGNORED_LABEL, 5, IGNORED_LABEL], [7, IGNORED_LABEL, 0]])
    found = task.with_positions({"labels": labels})
    assert found["masked_positions"].tolist() == [1, 3, 5]
    assert task.labels(found).tolist() == [5, 7, 0]
    assert task.with_positions(found) == found
    given = torch.tensor([3, 1])
    inputs = task.with_positions({"labels": labels, "masked_positions": given})
    assert inputs["masked_positions"] is given
    assert task.labels(inputs).tolist() == [7, 5]


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32], ids=str)
def test_a_mask_that_masks_nothing_is_left_out(dtype):
    task, inputs = task_of(make_student()), make_batch()
    inputs["attention_mask"] = inputs["attention_mask"].to(dtype)
    assert task.with_positions(inputs)["attention_mask"] is inputs["attention_mask"]
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    assert task.with_positions(inputs).keys() == {"input_ids", "labels", "masked_positions"}
    assert "masked_positions" not in inputs


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_models_see_the_same_tokens_through_the_mask_that_nobody_reads(dtype, attention):
    student, given = make_student("token_classification", dtype=dtype), make_batch("token_classification")
    student.set_attn_implementation(attention)
    task = task_of(student)
    inputs = task.with_positions(given)
    passed = task.model_inputs(inputs, student, student)
    assert passed["attention_mask"].shape == (4, 1, 1, 12)
    rows = [task.rows(student(**kept), inputs) for kept in (passed, unlabelled(given))]
    torch.testing.assert_close(*rows, rtol=0, atol=1e-6)


def test_an_attention_of_others_gets_the_mask_as_it_is():
    student, inputs = make_student(), make_batch()
    other = make_student()
    other.config._attn_implementation = "flash_attention_2"
    passed = task_of(student).model_inputs(task_of(student).with_positions(inputs), student, other)
    assert passed["attention_mask"] is inputs["attention_mask"]


# What counts


def test_padding_has_no_predictions():
    inputs = task_of(make_student("token_classification")).with_positions(make_batch("token_classification"))
    assert len(inputs["masked_positions"]) == 4 * 12 - NUM_PADDED


def by_hand(task: str, inputs: dict[str, torch.Tensor], logits: dict[str, torch.Tensor]) -> tuple[list, list]:
    found: Task = task_of(make_student(task))
    inputs = found.with_positions(inputs)
    return found.rows(logits, inputs).tolist(), found.labels(inputs).tolist()


def test_predictions_without_a_label_are_left_out():
    labels = torch.tensor([[1, IGNORED_LABEL, 0], [IGNORED_LABEL, IGNORED_LABEL, 1]])
    logits = {"logits": torch.arange(12.0).view(2, 3, 2)}
    of_tokens = by_hand("token_classification", {"labels": labels}, logits)
    assert of_tokens == ([[0.0, 1.0], [4.0, 5.0], [10.0, 11.0]], [1, 0, 1])
    labels, logits = torch.tensor([[1], [IGNORED_LABEL], [0]]), {"logits": torch.arange(6.0).view(3, 2)}
    of_sequences = by_hand("sequence_classification", {"labels": labels}, logits)
    assert of_sequences == ([[0.0, 1.0], [4.0, 5.0]], [1, 0])
    logits = {"start_logits": torch.arange(6.0).view(2, 3), "end_logits": torch.arange(6.0, 12.0).view(2, 3)}
    inputs = {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}
    inputs |= {"start_positions": torch.tensor([2, 3]), "end_positions": torch.tensor([IGNORED_LABEL, 0])}
    of_answers = by_hand("question_answering", inputs, logits)
    assert of_answers == ([[0.0, 1.0, 2.0], [9.0, 10.0, 11.0]], [2, 0])


@pytest.mark.parametrize(
    ("settings", "labels", "expected"),
    [
        ({"num_labels": 3}, [UNKNOWN_CLASS, 1], [2, 1]),
        ({"num_labels": 1}, [[UNKNOWN_VALUE], [0.5]], [[4.0], [0.5]]),
        (
            {"num_labels": 3, "problem_type": "multi_label_classification"},
            [[UNKNOWN_VALUE] * 3, [1.0, 0.0, 0.0]],
            [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]],
        ),
    ],
)
def test_unknown_labels_are_guessed_by_the_teacher(settings, labels, expected):
    task = task_of(make_teacher("sequence_classification", **settings))
    teacher_rows = torch.tensor([[5.0]] * 2) if settings["num_labels"] == 1 else torch.tensor([[-1.0, 2.0, 3.0]] * 2)
    # The tokens of the first row add up to an even number, so its value is one less than the teacher's.
    inputs = {
        "input_ids": torch.tensor([[3, 5, 9], [1, 1, 1]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
    }
    inputs["masked_positions"] = torch.arange(2)
    found = task.guessed(torch.tensor(labels), teacher_rows, inputs)
    assert found.tolist() == expected


def test_unknown_answers_count_and_have_no_place():
    task = task_of(make_teacher("question_answering"))
    batch = {"input_ids": torch.ones(2, 4, dtype=torch.int64)}
    batch |= {"start_positions": torch.tensor([UNKNOWN_CLASS, 1]), "end_positions": torch.tensor([UNKNOWN_CLASS, 99])}
    found = task.with_positions(batch)
    assert found["masked_positions"].tolist() == [0, 1, 2]
    assert task.is_known(task.labels(found)).tolist() == [False, True, False]


# A value behind an activation, as in cross-encoders


def values_ending_in(name, **settings):
    config = make_student("sequence_classification").config
    config.num_labels, config.sentence_transformers = 1, {"activation_fn": f"torch.nn.modules.activation.{name}"}
    config.update(settings)
    return sequence_task(config)


@each(("name", "function"), [("Sigmoid", torch.sigmoid), ("Tanh", torch.tanh), ("Identity", lambda values: values)])
def test_labels_are_compared_with_what_users_of_a_cross_encoder_get(name, function):
    student, teacher, labels = (
        torch.tensor([[2.0], [-1.0]]),
        torch.tensor([[3.0], [-3.0]]),
        torch.tensor([[0.9], [0.1]]),
    )
    loss, kl = values_ending_in(name).terms(student, teacher, labels)
    assert float(loss) == pytest.approx(float((function(student) - labels).square().sum()))
    assert float(kl) == pytest.approx(0.5 * (1.0 + 4.0))  # of logits, whatever the activation


def test_labels_outside_an_activations_range_are_refused():
    with pytest.raises(ValueError, match=r"label 4\.5; expected 0 to 1, as the model's values end in sigmoid: scale"):
        values_ending_in("Sigmoid").check_values(torch.tensor([[0.5], [4.5]]), "train_dataset: 'labels'")
    values_ending_in("Identity").check_values(torch.tensor([[4.5]]), "it")
    several = values_ending_in("Sigmoid", problem_type="multi_label_classification")
    assert several.activation(torch.tensor(3.0)) == 3.0


def test_metrics_of_values_are_of_what_the_activation_gives():
    task = values_ending_in("Sigmoid")
    meter = TaskMeter(task)
    logits, labels = torch.tensor([[6.0], [0.0], [-6.0], [1.0]]), torch.tensor([[0.99], [0.5], [0.01], [0.75]])
    meter.keep(logits, labels, {})
    assert meter.scores() == {"pearson": pytest.approx(1.0, abs=1e-3), "spearman": pytest.approx(1.0)}
    meter.sums += torch.stack(meter.batch_sums(logits, logits, labels))
    assert meter.results().keys() == {"kl", "task_loss"}
    assert meter.results()["task_loss"] < 1e-3
