"""The meter of a task's metrics, with unknown labels and on two ranks."""

import math

import numpy as np
import pytest
import torch
from tiny_models import make_teacher

from homodistil_hf.data.masking import UNKNOWN_CLASS, UNKNOWN_VALUE
from homodistil_hf.distillation.task_scores import TaskMeter
from homodistil_hf.distillation.tasks import task_of

NAMES = ["O", "B-A", "I-A", "B-B", "I-B"]


def meter_of(num_labels: int, **settings) -> TaskMeter:
    return TaskMeter(task_of(make_teacher("sequence_classification", num_labels=num_labels, **settings)))


def fed(meter: TaskMeter, rows, teacher_rows, labels, inputs=None) -> TaskMeter:
    rows, teacher_rows, labels = map(torch.tensor, (rows, teacher_rows, labels))
    inputs = {"input_ids": torch.ones(len(rows), 2), "masked_positions": torch.arange(len(rows))} | (inputs or {})
    meter.sums += torch.stack(meter.batch_sums(rows, teacher_rows, labels)).cpu()
    meter.keep(rows, labels, inputs)
    return meter


def test_unknown_classes_count_in_the_distance_alone():
    rows = [[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]
    meter = fed(meter_of(2), rows, [[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]], [0, UNKNOWN_CLASS, 0])
    found = meter.results()
    assert found["task_accuracy"] == 0.5
    assert found["agreement"] == pytest.approx(2 / 3)
    assert found["task_loss"] == pytest.approx((0.126928 + 2.126928) / 2, rel=1e-5)
    assert meter.scores() == {"macro_f1": pytest.approx((2 / 3 + 0) / 2)}
    alone = fed(meter_of(2), rows, rows, [UNKNOWN_CLASS] * 3)
    assert alone.results() == {"kl": 0.0, "agreement": 1.0}
    assert alone.scores() == {}


def test_partly_known_rows_count_by_what_is_known_of_them():
    """The error of a known value is 1 in every row, of a known label log 2."""
    values = meter_of(2, problem_type="regression")
    fed(values, [[1.0, 1.0]] * 3, [[1.0, 1.0]] * 3, [[2.0, 2.0], [2.0, UNKNOWN_VALUE], [UNKNOWN_VALUE] * 2])
    assert values.results()["task_loss"] == pytest.approx(1.0)
    several = meter_of(2, problem_type="multi_label_classification")
    fed(several, [[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2, [[1.0, 0.0], [UNKNOWN_VALUE, 1.0]])
    assert several.results()["task_loss"] == pytest.approx(math.log(2))


@pytest.mark.parametrize(("labels", "is_told"), [([0, 1, 0], True), ([0, 0, 0], False)])
def test_one_class_for_all_rows_of_several_is_told(caplog, labels, is_told):
    rows = [[2.0, 0.0], [2.0, 1.0], [3.0, 2.0]]
    meters = [fed(meter_of(2), given, rows, labels) for given in (rows, [*rows[:2], [0.0, 1.0]])]
    assert [meter.scores() and meter.is_constant for meter in meters] == [True, not is_told]
    assert (
        "all 3 held-out predictions of this model are of one class: it has learned nothing" in caplog.text
    ) == is_told


def test_answers_to_rows_without_labels_tell_a_model_that_has_learned(caplog):
    rows, labels = [[2.0, 0.0], [2.0, 1.0], [0.0, 1.0]], [0, 1, UNKNOWN_CLASS]
    meter = fed(meter_of(2), rows, rows, labels)
    assert meter.scores() == {"macro_f1": pytest.approx(1 / 3)}
    assert not meter.is_constant
    assert "it has learned nothing" not in caplog.text


def test_unknown_values_count_in_the_distance_alone():
    meter = fed(meter_of(1), [[1.0], [2.0], [4.0]], [[1.0], [2.0], [2.0]], [[2.0], [UNKNOWN_VALUE], [4.0]])
    assert meter.results() == {"kl": pytest.approx(2 / 3), "task_loss": 0.5}
    assert meter.scores() == {"pearson": pytest.approx(1.0), "spearman": pytest.approx(1.0)}


def test_two_ranks_give_what_one_gives():
    rows = np.random.default_rng(0).normal(size=(6, 3)).tolist()
    labels = [0, 1, 2, 0, 1, 2]
    whole = fed(meter_of(3), rows, rows, labels)
    halves = [fed(meter_of(3), rows[part], rows[part], labels[part]) for part in (slice(0, 3), slice(3, 6))]
    assert halves[0].scores(lambda kept: [kept, halves[1].kept]) == whole.scores()


def test_spans_do_not_reach_from_rank_to_rank():
    task = task_of(make_teacher("token_classification", num_labels=5))
    one = [[0.0, 0.0, 5.0, 0.0, 0.0]]  # I-A
    place = {"input_ids": torch.ones(1, 1), "masked_positions": torch.tensor([0])}
    ranks = [fed(TaskMeter(task, NAMES), one, one, [2], place) for _ in range(2)]
    found = ranks[0].scores(lambda kept: [kept, ranks[1].kept])
    assert found == {"span_f1": 1.0, "span_precision": 1.0, "span_recall": 1.0}
    assert len(ranks[0].kept) == 1
