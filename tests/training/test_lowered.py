"""Matrices that are lowered once a micro-batch: the numbers of autocast's own copies, to the last bit."""

from contextlib import nullcontext

import pytest
import torch
from rows import each
from torch import nn

from homodistil_hf.training.exact_trainer import ExactTrainer
from homodistil_hf.training.lowered import LoweredMatrices


@each("settings", [{}, {"gradient_accumulation_steps": 2}, {"hidden_weight": 0.0}])
def test_a_run_is_to_the_last_bit_what_it_is_with_autocasts_own_copies(trained, monkeypatch, settings):
    settings = {"bf16": True, "max_steps": 6, "student": "16-2x4-24", "width_multiple": 4} | settings
    lowered = trained(**settings)
    assert lowered._lowered is not None
    monkeypatch.setattr(ExactTrainer, "_lowered_matrices", lambda self: nullcontext())
    plain = trained(**settings)
    assert plain._lowered is None
    assert plain.kept == plain.plan
    weights = plain.model.state_dict()
    assert all(torch.equal(values, weights[name]) for name, values in lowered.model.state_dict().items())
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float32}


def test_weights_are_the_exact_ones_outside_the_block_and_gradients_add_up():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.Linear(3, 2, bias=False))
    model[2].weight.requires_grad_(False)
    exact = dict(model.named_parameters())
    matrices = LoweredMatrices(model, torch.bfloat16)
    gradients = []
    for _ in range(2):
        with matrices.in_place(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert {parameter.dtype for parameter in model[1].parameters()} == {torch.bfloat16}
            assert model[2].weight is exact["2.weight"]  # frozen: autocast's copy has no gradient to raise
            model(torch.tensor([1, 2])).float().sum().backward()
        assert all(parameter is exact[name] for name, parameter in model.named_parameters())
        gradients.append(model[1].weight.grad.clone())
    torch.testing.assert_close(gradients[1], 2 * gradients[0])
    with torch.no_grad():
        model[1].weight.add_(1.0)  # an optimizer's step
    with matrices.in_place():
        assert torch.equal(model[1].weight, exact["1.weight"].bfloat16())


def test_a_model_without_such_layers_stays_as_it_is():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4))
    exact = dict(model.named_parameters())
    matrices = LoweredMatrices(model, torch.bfloat16)
    for _ in range(2):
        with matrices.in_place():
            assert all(parameter is exact[name] for name, parameter in model.named_parameters())


def test_weights_come_back_after_an_error():
    model = nn.Linear(2, 2)
    exact = model.weight
    with pytest.raises(RuntimeError, match="in the middle"), LoweredMatrices(model, torch.bfloat16).in_place():
        raise RuntimeError("in the middle")
    assert model.weight is exact


def test_hooks_of_a_parameter_see_its_gradient():
    model, seen = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), []
    model[0].weight.register_hook(seen.append)
    model[1].weight.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad))
    with LoweredMatrices(model, torch.bfloat16).in_place(), torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.ones(1, 4)).float().sum().backward()
    assert {tuple(gradient.shape) for gradient in seen} == {(3, 4), (2, 3)}
