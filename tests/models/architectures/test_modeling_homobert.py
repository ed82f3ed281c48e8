import dataclasses
import inspect

import pytest
import torch
from students import (
    TASKS,
    UNEVEN,
    UNIFORM,
    assert_same_logits,
    logits_of,
    make_batch,
    make_student,
    sliced,
    unlabelled,
)
from torch import nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertSelfAttention

from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig, HomoBertForMaskedLM
from homodistil_hf.models.architectures.modeling_layerwise import layer_config, layer_head_dim
from homodistil_hf.models.resizing import write_plan
from homodistil_hf.models.units import modules_of
from homodistil_hf.models.widths import WidthPlan

# Stock BERT's forward passes


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


# Widths


def test_the_softmax_keeps_the_scale_it_was_told():
    config = HomoBertConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=2, num_attention_heads=3, head_dim=4, intermediate_size=24
    )
    told = HomoBertConfig(**config.to_dict() | {"softmax_head_dim": 16})
    default, student = HomoBertForMaskedLM(config).double().eval(), HomoBertForMaskedLM(told).double().eval()
    student.load_state_dict(default.state_dict())
    for attention in modules_of(default, BertSelfAttention):
        assert attention.scaling == 4**-0.5
        attention.query.weight.data *= 0.5
        attention.query.bias.data *= 0.5
    assert [attention.scaling for attention in modules_of(student, BertSelfAttention)] == [0.25, 0.25]
    assert_same_logits(logits_of(student, make_batch()), logits_of(default, make_batch()))


def test_head_sizes_and_layers_are_read_off_configurations():
    assert layer_head_dim(BertConfig(hidden_size=48, num_attention_heads=4)) == 12
    assert layer_head_dim(HomoBertConfig(hidden_size=48, num_attention_heads=4)) == 12
    config = HomoBertConfig(hidden_size=50, num_hidden_layers=2, num_attention_heads=4, head_dim=7)
    assert layer_head_dim(config) == 7
    assert layer_config(config, 1) is config
    write_plan(config, WidthPlan(19, UNEVEN.layers))
    for index, widths in enumerate(UNEVEN.layers):
        view = layer_config(config, index)
        assert (view.num_attention_heads, layer_head_dim(view), view.intermediate_size) == dataclasses.astuple(widths)


# What travels with an export


def test_per_sample_gradients_of_a_compact_export():
    """`torch.func` sees through the model: no hook in it asks where a tensor lies."""
    student, tokens_BT = make_student().train(), make_batch()["input_ids"]
    sliced(student, UNEVEN)
    del student.projections
    student.set_attn_implementation("eager")  # torch maps the fused one row by row, and warns of it
    parameters = {name: parameter.detach() for name, parameter in student.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], tokens_T: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(student, parameters, (tokens_T[None],)).logits
        return nn.functional.cross_entropy(logits[0], tokens_T)

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, tokens_BT)
    for row, tokens_T in enumerate(tokens_BT):
        student.zero_grad()
        loss(dict(student.named_parameters()), tokens_T).backward()
        for name, parameter in student.named_parameters():
            torch.testing.assert_close(found[name][row], parameter.grad, rtol=1e-4, atol=1e-6)
