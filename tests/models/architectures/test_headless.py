"""Encoders without a head, every architecture: the same states as teacher, student and stock export, however cut."""

import pytest
import torch
from rows import each
from students import assert_same_logits, make_batch, masked, zeroed_copy
from tiny_architectures import UNEVEN, UNIFORM, dtype_of, plan_of, tiny_architecture_config
from tiny_models import randomized

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.widths import widths_of
from homodistil_hf.pruning.compaction import compact, remove_padding

pytestmark = pytest.mark.slow


def states_of(model, inputs):
    """Of real tokens, kept channels first."""
    with torch.no_grad():
        states = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    return states[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@each("plan", [UNIFORM, UNEVEN])
def test_masked_compacted_saved_and_stock_give_the_same_states(architecture, plan, tmp_path):
    torch.manual_seed(1)
    teacher = (
        randomized(architecture.encoder.stock(tiny_architecture_config(architecture)))
        .to(dtype_of(architecture))
        .eval()
    )
    inputs, plan = make_batch(), plan_of(architecture, plan)
    student = to_student(teacher, needs_head=False).to(teacher.dtype).eval()
    assert type(student) is architecture.encoder.student
    assert_same_logits(states_of(student, inputs), states_of(teacher, inputs))
    groups, masks = masked(student, plan)
    expected = states_of(zeroed_copy(student, masks), inputs)[:, masks["hidden"]]
    compact(student, groups, masks, plan=plan)
    assert widths_of(student.config) == plan
    assert_same_logits(states_of(student, inputs), expected)
    stock = to_stock(student)
    assert type(stock) is architecture.encoder.stock
    assert_same_logits(states_of(stock, inputs), expected)
    stock.save_pretrained(tmp_path)
    loaded, info = type(stock).from_pretrained(tmp_path, dtype=teacher.dtype, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert_same_logits(states_of(loaded.eval(), inputs), expected)
    again = to_student(stock, needs_head=False).to(teacher.dtype).eval()
    remove_padding(again, plan)
    assert_same_logits(states_of(again, inputs), expected)
