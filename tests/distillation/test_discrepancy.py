import math

import pytest
import torch
from fake_device import DEVICE, fake_device
from rows import each
from students import TASKS, UNEVEN, WITHOUT_DROPOUT, make_batch, make_student, sliced
from tiny_models import make_teacher

from homodistil_hf.distillation.discrepancy import DiscrepancyMeter
from homodistil_hf.distillation.tasks import task_of
from homodistil_hf.distillation.teacher import FrozenTeacher
from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel
from homodistil_hf.models.conversion import to_student


def make_pair(task: str = "masked_lm", dtype: torch.dtype = torch.float32) -> tuple[LayerwiseModel, FrozenTeacher]:
    student = make_student(task)
    sliced(student, UNEVEN)
    return student, FrozenTeacher(to_student(make_teacher(task, **WITHOUT_DROPOUT)), dtype=dtype)


def measured(student: LayerwiseModel, teacher: FrozenTeacher, *batches: dict) -> dict[str, float]:
    meter = DiscrepancyMeter(task_of(student))
    for batch in batches:
        meter.update(student, teacher, batch)
    return meter.results()


@torch.no_grad()
def test_masked_words_against_the_dense_formulas():
    student, teacher = make_pair()
    batches = [make_batch(seed=seed, num_rows=rows) for seed, rows in enumerate((4, 1, 3))]
    kls, losses, hits = [], [], []
    for batch in batches:
        unlabelled = {name: batch[name] for name in ("input_ids", "attention_mask")}
        own, theirs = (model(**unlabelled).logits.double().log_softmax(-1) for model in (student, teacher.exact))
        for row in range(len(batch["labels"])):
            for token in range(12):
                if (label := int(batch["labels"][row, token])) >= 0:
                    p, q = theirs[row, token], own[row, token]
                    kls.append(sum(math.exp(p[c]) * float(p[c] - q[c]) for c in range(96)))
                    losses.append(-float(q[label]))
                    hits.append(int(q.argmax()) == label)
    results = measured(student, teacher, *batches)
    assert results.keys() == {"kl", "mlm_loss", "mlm_accuracy"}
    assert results["kl"] == pytest.approx(sum(kls) / len(kls), rel=1e-5)
    assert results["mlm_loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert results["mlm_accuracy"] == sum(hits) / len(hits)
    assert len(kls) > 20


@each("task", TASKS)
def test_the_teacher_has_no_discrepancy_to_itself(task):
    teacher = FrozenTeacher(to_student(make_teacher(task, **WITHOUT_DROPOUT)), dtype=torch.bfloat16)
    assert measured(to_student(teacher.exact), teacher, make_batch(task))["kl"] == 0.0


def test_everything_is_float32_inside_autocast_and_past_a_wrapped_forward():
    inputs = make_batch()
    expected = measured(*make_pair(), inputs)
    student, teacher = make_pair(dtype=torch.bfloat16)
    student.forward = torch.autocast("cpu", dtype=torch.bfloat16)(student.forward)  # as accelerate wraps it
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measured(student, teacher, inputs) == expected


def test_sums_of_ranks_are_reduced_before_the_average():
    student, teacher = make_pair()
    meters = [DiscrepancyMeter(task_of(student)) for _ in range(2)]
    for seed, meter in enumerate(meters):
        meter.update(student, teacher, make_batch(seed=seed, num_rows=2 + 3 * seed))
    reduced = meters[0].results(lambda sums: sums + meters[1].sums)
    whole = measured(student, teacher, *(make_batch(seed=seed, num_rows=2 + 3 * seed) for seed in range(2)))
    assert reduced == whole
    assert reduced != meters[0].results()


def test_nothing_measured_has_no_results():
    student, teacher = make_pair()
    meter = DiscrepancyMeter(task_of(student))
    assert meter.results() == {}
    inputs = make_batch()
    inputs["labels"] = torch.full_like(inputs["labels"], -100)
    assert float(meter.update(student, teacher, inputs)) == 0.0
    assert meter.results() == {}


@pytest.mark.slow
@each("task", TASKS)
def test_a_batch_is_read_back_once_and_added_up_in_float64_by_the_host(task):
    student, teacher = make_student(task).to(DEVICE), FrozenTeacher(to_student(make_teacher(task)).to(DEVICE))
    meter = DiscrepancyMeter(task_of(student))
    inputs = {name: tensor.to(DEVICE) for name, tensor in make_batch(task).items()}
    inputs["masked_positions"] = torch.tensor([0, 1, 3]).to(DEVICE)
    with fake_device(has_float64=False) as waits:
        meter.update(student, teacher, inputs)
    assert len(waits) == 1
    assert (meter.sums.dtype, meter.sums.device.type) == (torch.float64, "cpu")
