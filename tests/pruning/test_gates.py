"""A layer whose number is 0 is as good as removed, one whose number is 1 as if it had none, in every architecture."""

import copy

import pytest
import torch
from students import logits_of, make_batch, make_student, unlabelled
from tiny_architectures import VARIANTS, tiny_architecture_teacher
from torch import nn

from homodistil_hf.distillation.projections import Projections
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.architecture import PROJECTIONS
from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel, encoder_layers
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.resizing import matched_layers, remove_layers
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.pruning.gates import LayerGates
from homodistil_hf.pruning.pruner import Pruner
from homodistil_hf.pruning.schedule import PruningSchedule

pytestmark = pytest.mark.slow

NUM_LAYERS = 4
CASES = {name: (architecture, architecture.heads[0], {}) for name, architecture in ARCHITECTURES.items()}
CASES |= {
    name: (ARCHITECTURES[model_type], ARCHITECTURES[model_type].heads[0], config)
    for name, (model_type, config) in VARIANTS.items()
}
CASES |= {head.stock_name: (ARCHITECTURES["bert"], head, {}) for head in ARCHITECTURES["bert"].heads[1:]}


@pytest.fixture(params=CASES)
def student(request) -> LayerwiseModel:
    """In float64, of four layers, with projections of their states."""
    architecture, head, config = CASES[request.param]
    depth = {architecture.named("num_hidden_layers"): NUM_LAYERS}
    found = to_student(tiny_architecture_teacher(architecture, head, **config, **depth))
    found.add_module(PROJECTIONS, Projections(32, 32, num_hidden_layers=NUM_LAYERS, init="random"))
    return found.double().eval()


@torch.no_grad()
def states_of(student: LayerwiseModel) -> list[torch.Tensor]:
    return list(student(**unlabelled(make_batch()), output_hidden_states=True).hidden_states)


@pytest.mark.parametrize("kept", [(0, 2), (1, 3), (2,)], ids=str)
def test_a_layer_at_0_is_as_if_it_was_removed(student, kept):
    architecture = ARCHITECTURES[student.config.model_type.removeprefix("homo")]
    if architecture.keeps_first_layer(student.config) and 0 not in kept:
        kept = (0, *kept)
    removed = copy.deepcopy(student)
    LayerGates(student, kept).move_to(0.0)
    masked_logits, masked_states = logits_of(student, make_batch()), states_of(student)
    remove_layers(removed, kept)
    assert len(encoder_layers(removed)) == removed.config.num_hidden_layers == len(widths_of(removed.config).layers)
    assert float((logits_of(removed, make_batch()) - masked_logits).abs().max()) <= 1e-9
    matched = matched_layers(kept, NUM_LAYERS)
    for own, before in zip(states_of(removed)[1:], matched, strict=True):
        assert float((own - masked_states[before + 1]).abs().max()) <= 1e-9
    for own, before in zip(removed.projections.hidden, matched, strict=True):
        assert own.weight.equal(student.projections.hidden[before].weight)
    stock = to_stock(removed.float()).eval()
    torch.testing.assert_close(logits_of(stock, make_batch()).double(), masked_logits, rtol=0, atol=1e-4)


def test_a_number_of_1_changes_no_bit(student):
    plain = logits_of(student, make_batch())
    LayerGates(student, (0, 2))
    assert logits_of(student, make_batch()).equal(plain)


def test_in_between_it_is_the_mean_of_input_and_output(student):
    plain = states_of(student)
    LayerGates(student, (0, 2, 3)).move_to(0.25)
    gated = states_of(student)
    assert gated[1].equal(plain[1])
    torch.testing.assert_close(gated[2], 0.75 * plain[1] + 0.25 * plain[2], rtol=0, atol=1e-12)


def test_layers_of_less_than_half_count_as_gone():
    gates = LayerGates(make_student(num_hidden_layers=3), (0, 2))
    assert gates.nearest() == (0, 1, 2)
    gates.move_to(0.4)
    assert gates.nearest() == (0, 2)


# In the pruner

TARGET = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))


def make_pruner(student: LayerwiseModel | None = None, **settings: object) -> Pruner:
    student = make_student(num_hidden_layers=4) if student is None else student
    pruner = Pruner(student, TARGET, **settings)
    pruner.leave((0, 3))
    return pruner


def backward(pruner: Pruner, seed: int = 0) -> None:
    inputs = unlabelled(make_batch(seed=seed))
    pruner.model.zero_grad()
    nn.functional.cross_entropy(pruner.model(**inputs)[0].flatten(0, 1), inputs["input_ids"].flatten()).backward()


def run(pruner: Pruner, num_steps: int, *, first: int = 0, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Steps of a run of 20; the plan is due after the tenth."""
    schedule = PruningSchedule((0.0, 0.5), 2, 20)
    optimizer = optimizer or torch.optim.AdamW(pruner.model.parameters(), lr=1e-3)
    for step in range(first, first + num_steps):
        pruner.fade(step, schedule)
        if not pruner.gates.are_removed and pruner.gates.value == 0:
            pruner.remove_layers(pruner.gates, optimizer=optimizer)
        pruner.step(step, schedule, optimizer=optimizer)
        backward(pruner, seed=step)
        pruner.score()
        optimizer.step()


def test_layers_and_widths_reach_the_plan_together():
    pruner = make_pruner()
    optimizer = torch.optim.AdamW(pruner.model.parameters(), lr=1e-3)
    run(pruner, 10, optimizer=optimizer)
    assert not pruner.plan_reached
    assert len(pruner.kept.layers) == 4
    assert pruner.gates.value == pytest.approx(0.1**3)
    run(pruner, 2, first=10, optimizer=optimizer)
    assert pruner.plan_reached
    assert pruner.kept == pruner.target == TARGET
    own = set(pruner.model.parameters())
    assert {one for group in optimizer.param_groups for one in group["params"]} == own
    assert optimizer.state.keys() <= own
    assert all(optimizer.state[one]["exp_avg"].shape == one.shape for one in own if one in optimizer.state)
    assert pruner.scores.state.keys() == pruner.groups.keys()


def test_a_state_of_other_layers_is_refused():
    state = make_pruner().state_dict()
    state["gates"]["kept"] = [2, 3]
    with pytest.raises(ValueError, match=r"keeps layers \[2, 3\], the student of this trainer \[0, 3\]"):
        make_pruner().check_state(state)


def test_layers_that_leave_become_as_narrow_as_the_one_before_them():
    plan = WidthPlan(16, (LayerWidths(2, 8, 32), LayerWidths(1, 8, 16)))
    pruner = Pruner(make_student(num_hidden_layers=4), plan)
    pruner.leave((0, 3))
    run(pruner, 10)
    ffn = [layer.intermediate_size for layer in pruner.kept.layers]
    assert ffn[0] == ffn[1] == ffn[2] > ffn[3]
    run(pruner, 2, first=10)
    assert pruner.kept == plan


@pytest.mark.parametrize("num_steps", [1, 4, 11])
def test_a_resumed_pruner_goes_on_alike(num_steps):
    pruners = [make_pruner(), make_pruner()]
    run(pruners[0], num_steps)
    state, tensors = pruners[0].state_dict(), pruners[0].state_tensors()
    other = pruners[1]
    if state["gates"]["value"] == 0:
        other.remove_layers(other.gates)
    if other.kept != pruners[0].kept:
        other.prune_to(pruners[0].kept)
    other.model.load_state_dict(pruners[0].model.state_dict())
    other.load_state(state, tensors)
    assert other.state_dict() == state
    backward(pruners[0])
    backward(other)
    for mine, theirs in zip(pruners[0].model.parameters(), other.model.parameters(), strict=True):
        assert mine.grad is theirs.grad is None or mine.grad.equal(theirs.grad)
