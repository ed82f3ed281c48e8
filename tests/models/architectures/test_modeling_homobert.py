import inspect

import pytest
import torch
from students import TASKS, UNIFORM, make_batch, make_student, sliced, unlabelled


def test_segments_are_the_third_argument_and_a_trainer_leaves_their_column():
    student, inputs = make_student(), unlabelled(make_batch())
    types_BT = torch.arange(12).expand(4, -1) % 2
    with torch.no_grad():
        by_place = student(*inputs.values(), types_BT).logits
        assert torch.equal(by_place, student(**inputs, token_type_ids=types_BT).logits)
        assert not torch.equal(by_place, student(**inputs).logits)
    assert list(inspect.signature(student.forward).parameters)[:4] == [*inputs, "token_type_ids", "labels"]


def test_labels_and_masked_positions_exclude_each_other():
    inputs = make_batch()
    with pytest.raises(
        ValueError, match=r"labels of shape \(4, 12\) and masked_positions exclude each other; drop one"
    ):
        make_student()(**inputs, masked_positions=torch.tensor([1]))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("task", TASKS)
def test_gradient_checkpointing_changes_no_gradient(task):
    student, inputs = make_student(task).train(), make_batch(task)
    del student.projections
    sliced(student, UNIFORM)
    student(**inputs).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    student.zero_grad()
    student.gradient_checkpointing_enable()
    assert student.is_gradient_checkpointing
    student(**inputs).loss.backward()
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-6, atol=1e-7)
