import statistics

import pytest
import torch
from rows import each
from students import UNEVEN, indices_of, make_batch, make_student, masked
from torch import nn

from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel
from homodistil_hf.models.units import Group, Slice, UnitMap, UnitTensors, encoder_groups
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.pruning.scores import (
    METRICS,
    MagnitudeScores,
    SensitivityScores,
    sensitivities,
    unit_sums,
)

Weights = dict[str, torch.Tensor]


def loss_of(student: LayerwiseModel, seed: int = 0) -> torch.Tensor:
    outputs = student(**make_batch(seed=seed), output_hidden_states=True)
    states = zip(student.projections.hidden, outputs.hidden_states[1:], strict=True)
    return outputs.loss + sum(projection(state).square().mean() for projection, state in states)


def take_gradients(student: LayerwiseModel, seed: int = 0) -> Weights:
    student.zero_grad()
    loss_of(student, seed).backward()
    return dict(student.named_parameters())


def products(parameters: Weights) -> Weights:
    """θ·∂L/∂θ of every weight in float64; 0 without a gradient."""
    return {
        name: torch.zeros(parameter.shape).double()
        if parameter.grad is None
        else parameter.detach().double() * parameter.grad.double()
        for name, parameter in parameters.items()
    }


def slow_sums(importance: Weights, groups: dict[str, Group]) -> dict[str, list[float]]:
    """One unit after another, slice by slice."""
    sums = {}
    for name, group in groups.items():
        sums[name] = [0.0] * group.num_units
        for unit in range(group.num_units):
            for piece in group.slices:
                found = importance[piece.parameter].index_select(piece.dim, indices_of(piece, unit))
                sums[name][unit] += float(found.sum())
    return sums


def assert_same_scores(scores: UnitTensors, expected: dict[str, list[float]], rel: float = 1e-4) -> None:
    assert scores.keys() == expected.keys()
    for name, values in scores.items():
        assert values.dtype == torch.float32
        top = max(abs(value) for value in expected[name])
        assert values.tolist() == pytest.approx(expected[name], rel=rel, abs=rel * top), name
        assert top > 0


# One number a unit


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_sensitivity_is_the_sum_over_all_slices(dtype):
    student = make_student(dtype=dtype)
    groups, parameters = encoder_groups(student), take_gradients(student)
    expected = slow_sums({name: value.abs() for name, value in products(parameters).items()}, groups)
    tolerance = 1e-4 if dtype != torch.bfloat16 else 1e-2
    assert_same_scores(sensitivities(parameters, groups), expected, rel=tolerance)
    metric = SensitivityScores(groups, sensitivity_smoothing=0.0)
    metric.update(parameters, groups)
    relative = {name: [value / statistics.fmean(values) for value in values] for name, values in expected.items()}
    assert_same_scores(metric.scores(parameters, groups), relative, rel=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sequence_classification", "token_classification", "question_answering"])
def test_task_heads_count_for_hidden_channels(task):
    student = make_student(task)
    groups = encoder_groups(student)
    student(**make_batch(task)).loss.backward()
    parameters = dict(student.named_parameters())
    expected = slow_sums({name: value.abs() for name, value in products(parameters).items()}, groups)
    assert_same_scores(sensitivities(parameters, groups), expected)


def test_magnitude_is_the_l1_norm_of_all_slices():
    student = make_student()
    groups, parameters = encoder_groups(student), dict(student.named_parameters())
    metric = MagnitudeScores(groups)
    for added in (0, 100):  # a score follows the weights without another update
        with torch.no_grad():
            student.bert.encoder.layer[0].intermediate.dense.bias[3] += added
        weights = {name: parameter.detach().double().abs() for name, parameter in parameters.items()}
        assert_same_scores(metric.scores(parameters, groups), slow_sums(weights, groups))


BOTH = UnitMap(torch.tensor([0, 0]))


def test_every_gradient_counts_once_in_every_group():
    parameter = nn.Parameter(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    parameter.grad = torch.tensor([[1.0, 1.0], [-1.0, 0.5]])
    groups = {
        "rows": Group("rows", 2, (Slice("weight", 0),)),
        "columns": Group("columns", 2, (Slice("weight", 1), Slice("absent", 0))),
        "whole": Group("whole", 1, (Slice("weight", 0, BOTH), Slice("weight", 1, BOTH))),
        "second": Group("second", 1, (Slice("weight", 0, UnitMap(torch.tensor([-1, 0]))),)),
    }
    scores = sensitivities({"weight": parameter}, groups)
    assert {name: values.tolist() for name, values in scores.items()} == {
        "rows": [3.0, 5.0],
        "columns": [4.0, 4.0],
        "whole": [16.0],
        "second": [5.0],
    }


# What a score means


@pytest.fixture(scope="module")
def single_weights() -> tuple[LayerwiseModel, dict[str, torch.Tensor]]:
    """A float64 student, and the sensitivity of each of its weights on its own."""
    torch.manual_seed(0)
    student = make_student(dtype=torch.float64)
    parameters = {name: parameter for name, parameter in take_gradients(student).items() if parameter.grad is not None}
    flat: dict[str, nn.Parameter] = {}
    for name, parameter in parameters.items():
        flat[name] = nn.Parameter(parameter.detach().flatten().clone())
        flat[name].grad = parameter.grad.flatten()
    groups = {name: Group(name, len(weights), (Slice(name, 0),)) for name, weights in flat.items()}
    scores = sensitivities(flat, groups)
    return student, {name: scores[name].view(parameter.shape) for name, parameter in parameters.items()}


@torch.no_grad()
def loss_change(student: LayerwiseModel, name: str, index: tuple[int, ...], *, factor: float) -> float:
    """By how much the loss changes when one weight is multiplied."""
    parameter = dict(student.named_parameters())[name]
    before, weight = float(loss_of(student)), float(parameter[index])
    parameter[index] = weight * factor
    change = float(loss_of(student)) - before
    parameter[index] = weight
    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.position_embeddings.weight",
        "bert.embeddings.LayerNorm.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.0.attention.self.value.bias",
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.encoder.layer.1.intermediate.dense.weight",
        "bert.encoder.layer.1.output.dense.weight",
        "bert.encoder.layer.1.output.LayerNorm.bias",
        "cls.predictions.transform.dense.weight",
        "projections.hidden.1.weight",
    ],
)
def test_sensitivity_is_the_loss_change_to_first_order(name, single_weights):
    student, sensitivities = single_weights
    sensitivity = sensitivities[name]
    largest = sensitivity.flatten().topk(3).indices
    for flat_index in largest.tolist():
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat_index), sensitivity.shape))
        # A share h of the way to zero: (L(θ − hθ) − L(θ + hθ)) / 2h, then all the way.
        shares = [loss_change(student, name, index, factor=1 + h) for h in (-1e-4, 1e-4)]
        derivative = (shares[0] - shares[1]) / 2e-4
        assert abs(derivative) == pytest.approx(float(sensitivity[index]), rel=1e-5)
        zeroed = loss_change(student, name, index, factor=0.0)
        assert zeroed == pytest.approx(derivative, rel=0.5)


# Over the steps


def two_weights(weights: list[float], gradients: list[float] | None) -> Weights:
    parameter = nn.Parameter(torch.tensor(weights))
    parameter.grad = None if gradients is None else torch.tensor(gradients)
    return {"weight": parameter}


TWO_WEIGHTS = {"units": Group("units", 2, (Slice("weight", 0),))}


def test_the_moving_average_by_hand():
    metric = SensitivityScores(TWO_WEIGHTS, sensitivity_smoothing=0.75)
    metric.update(two_weights([2.0, 1.0], [-3.0, 2.0]), TWO_WEIGHTS)  # 6 and 2, of a mean of 4
    assert metric.state["units"].tolist() == [0.25 * 1.5, 0.25 * 0.5]
    metric.update(two_weights([1.0, 1.0], [2.0, -6.0]), TWO_WEIGHTS)  # 2 and 6
    assert metric.state["units"].tolist() == [0.75 * 0.375 + 0.25 * 0.5, 0.75 * 0.125 + 0.25 * 1.5]
    metric.update(two_weights([1.0, 1.0], None), TWO_WEIGHTS)
    assert metric.state["units"].tolist() == [0.75 * 0.40625, 0.75 * 0.46875]


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_a_gradient_scale_is_divided_out(name):
    scores = []
    for scale in (1.0, 1024.0):
        student = make_student()
        groups, metric = encoder_groups(student), METRICS[name](encoder_groups(student))
        for seed in range(2):
            parameters = take_gradients(student, seed)
            for parameter in parameters.values():
                if parameter.grad is not None:
                    parameter.grad *= scale
            metric.update(parameters, groups, gradient_scale=scale)
        scores.append(metric.scores(parameters, groups))
    assert all(torch.equal(scores[0][group], scores[1][group]) for group in scores[0])
    assert float(scores[0]["hidden"].abs().max()) > 0


@pytest.mark.parametrize("name", METRICS)
def test_an_update_leaves_gradients_and_weights_alone(name):
    student = make_student()
    groups, parameters = encoder_groups(student), take_gradients(student)
    before = {k: (p.detach().clone(), None if p.grad is None else p.grad.clone()) for k, p in parameters.items()}
    metric = METRICS[name](groups)
    metric.update(parameters, groups, gradient_scale=2.0)
    metric.scores(parameters, groups)
    for key, (weight, gradient) in before.items():
        assert torch.equal(parameters[key], weight)
        assert gradient is None or torch.equal(parameters[key].grad, gradient)


def test_scores_of_kept_units_survive_slicing():
    student = make_student()
    groups, parameters = encoder_groups(student), take_gradients(student)
    metric = SensitivityScores(groups)
    metric.update(parameters, groups)
    groups, masks = masked(student, UNEVEN)
    before = metric.scores(parameters, groups)
    metric.keep(*compact(student, groups, masks, plan=UNEVEN))
    after = metric.scores(dict(student.named_parameters()), encoder_groups(student))
    assert all(torch.equal(values, before[group][masks[group]]) for group, values in after.items())
    metric.update(take_gradients(student), encoder_groups(student))


# On an accelerator


@pytest.mark.slow
@each("chunk_elements", [1, 7, 64, 1 << 18])
def test_a_few_rows_at_a_time_give_the_sums_of_all_weights_at_once(chunk_elements):
    student = make_student()
    groups, parameters = encoder_groups(student), take_gradients(student)
    pairs = {name: (p.detach(), p.grad) for name, p in parameters.items() if p.grad is not None}

    def importance(weights, gradients):
        return [(weight * gradient).abs() for weight, gradient in zip(weights, gradients, strict=True)]

    whole = unit_sums(pairs, groups, importance, chunk_elements=0)
    parts = unit_sums(pairs, groups, importance, chunk_elements=chunk_elements)
    assert parts.keys() == whole.keys()
    for name, values in whole.items():
        torch.testing.assert_close(parts[name], values, rtol=1e-5, atol=1e-8 * float(values.abs().max()))
        assert float(values.max()) > 0
