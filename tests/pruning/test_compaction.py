import copy
import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import each
from students import (
    FULL,
    KINDS,
    TASKS,
    UNEVEN,
    UNIFORM,
    assert_same_logits,
    logits_of,
    make_batch,
    make_student,
    masked,
    random_scores,
    sliced,
    slow_logits,
    zero_dropped,
    zeroed_copy,
)
from torch import nn

from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel
from homodistil_hf.models.units import UnitTensors, encoder_groups
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.pruning.compaction import Kept, compact
from homodistil_hf.pruning.masks import choose_masks, full_masks

DTYPES = each("dtype", [torch.float32, torch.float64])


def narrowed(**widths: int) -> WidthPlan:
    """The full widths with some of them smaller, in both layers."""
    hidden = widths.pop("hidden_size", FULL.hidden_size)
    return WidthPlan(hidden, tuple(dataclasses.replace(layer, **widths) for layer in FULL.layers))


PLANS = {
    "hidden": narrowed(hidden_size=13),
    "heads": narrowed(num_attention_heads=1),
    "head channels": narrowed(head_dim=3),
    "ffn": narrowed(intermediate_size=7),
    "all": UNIFORM,
    "all, uneven": UNEVEN,
    "smallest": WidthPlan.uniform(2, 2, LayerWidths(1, 1, 1)),
}


# Sliced = zeroed = never there


def kept_entries(tensors: dict[str, torch.Tensor], kept: Kept) -> dict[str, torch.Tensor]:
    """What is left of tensors of the parameters' shapes."""
    left = {}
    for name, tensor in tensors.items():
        for dim, indices in kept[1].get(name, {}).items():
            tensor = tensor.index_select(dim, indices)
        left[name] = tensor
    return left


def some_masks(student: LayerwiseModel, kind: str, seed: int = 3) -> dict[str, torch.Tensor]:
    """Random units of one kind dropped, or of all; any number of channels in any head."""
    generator = torch.Generator().manual_seed(seed)
    masks = full_masks(encoder_groups(student))
    for name in masks:
        if kind in ("all", name.split(".")[0]):
            masks[name] = torch.rand(len(masks[name]), generator=generator) < 0.6
            masks[name][0] = True
    return masks


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_both_references_agree(kind, dtype):
    """Units zeroed by the table of groups, and a BERT that is written out without them."""
    student, inputs = make_student(dtype=dtype), make_batch()
    weights = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    masks = some_masks(student, kind)
    logits = logits_of(zeroed_copy(student, masks), inputs)
    assert_same_logits(logits, slow_logits(weights, inputs, masks, head_dim=8))
    assert float((logits - logits_of(student, inputs)).abs().max()) > 1e-2


def assert_sliced_is_zeroed(student: LayerwiseModel, plan: WidthPlan, inputs: Any, seed: int = 0) -> UnitTensors:
    """Slice the student to a plan: it has the logits that it has with the units zeroed; returns the masks."""
    groups, masks = masked(student, plan, seed)
    expected = logits_of(zeroed_copy(student, masks), inputs)
    compact(student, groups, masks, plan=plan)
    assert_same_logits(logits_of(student, inputs), expected)
    return masks


@pytest.mark.slow
@DTYPES
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("task", TASKS)
def test_sliced_equals_zeroed(task, plan, dtype):
    student = make_student(task, dtype=dtype)
    masks = assert_sliced_is_zeroed(student, plan, make_batch(task))
    sizes = {name: group.num_units for name, group in encoder_groups(student).items()}
    assert sizes == {name: int(mask.sum()) for name, mask in masks.items()}
    assert widths_of(student.config) == plan


@pytest.mark.slow
@given(
    st.integers(1, 32),
    st.lists(st.builds(LayerWidths, st.integers(1, 4), st.integers(1, 8), st.integers(1, 64)), min_size=2, max_size=2),
    st.integers(0, 1000),
    st.sampled_from(TASKS),
)
@settings(max_examples=40, deadline=None)
def test_sliced_equals_zeroed_at_any_widths(hidden_size, layers, seed, task):
    student, plan = make_student(task, dtype=torch.float64), WidthPlan(hidden_size, tuple(layers))
    assert_sliced_is_zeroed(student, plan, make_batch(task), seed)


def learn(student: LayerwiseModel, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of a loss that reaches every parameter."""
    student.zero_grad()
    outputs = student(**inputs, output_hidden_states=True)
    states = zip(student.projections.hidden, outputs.hidden_states[1:], strict=True)
    loss = outputs.loss + sum(projection(state).square().mean() for projection, state in states)
    (loss + student.projections.embedding(outputs.hidden_states[0]).square().mean()).backward()
    return {name: parameter.grad for name, parameter in student.named_parameters() if parameter.grad is not None}


@pytest.mark.slow
@each("task", TASKS)
def test_gradients_of_a_sliced_student_are_those_of_the_zeroed_one(task):
    student, inputs = make_student(task, dtype=torch.float64), make_batch(task)
    groups, masks = masked(student, UNEVEN)
    before = learn(zeroed_copy(student, masks), inputs)
    kept = compact(student, groups, masks, plan=UNEVEN)
    after = learn(student, inputs)
    assert after.keys() == before.keys()
    for name, gradient in kept_entries(before, kept).items():
        torch.testing.assert_close(after[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@each("optimizer", ["adamw", "adamw fused", "amsgrad", "sgd"])
def test_steps_after_slicing_are_those_of_the_zeroed_student_in_what_is_kept(optimizer):
    student = make_student(dtype=torch.float64)
    own = OPTIMIZERS[optimizer](student.parameters())
    for seed in range(3):
        learn(student, make_batch(seed=seed))
        own.step()
    groups, masks = masked(student, UNEVEN)
    zeroed = zeroed_copy(student, masks)
    other = OPTIMIZERS[optimizer](zeroed.parameters())
    other.load_state_dict(copy.deepcopy(own.state_dict()))
    kept = compact(student, groups, masks, plan=UNEVEN, optimizer=own)
    for seed in range(3, 6):
        for model, steps in ((student, own), (zeroed, other)):
            learn(model, make_batch(seed=seed))
            steps.step()
        zero_dropped(dict(zeroed.named_parameters()), groups, masks)  # momentum would revive them
        expected = kept_entries({name: p.detach() for name, p in zeroed.named_parameters()}, kept)
        for name, parameter in student.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-9, atol=1e-9)


def test_slicing_in_two_rounds_equals_slicing_at_once():
    once, twice, inputs = make_student(dtype=torch.float64), make_student(dtype=torch.float64), make_batch()
    groups, first = masked(twice, UNEVEN)
    narrower = WidthPlan(9, (LayerWidths(2, 4, 8), LayerWidths(1, 5, 30)))
    second = choose_masks(random_scores(groups, seed=5), first, plan=narrower)
    compact(once, groups, second, plan=narrower)
    compact(twice, groups, first, plan=UNEVEN)
    kept_of_first = {name: second[name][first[name]] for name in second}
    compact(twice, encoder_groups(twice), kept_of_first, plan=narrower)
    for (name, parameter), (_, expected) in zip(twice.named_parameters(), once.named_parameters(), strict=True):
        assert torch.equal(parameter, expected), name
    assert torch.equal(logits_of(twice, inputs), logits_of(once, inputs))


# What a sliced student is


@pytest.mark.slow
@each("plan", [UNIFORM, UNEVEN])
@each("task", TASKS)
def test_a_sliced_student_is_like_one_built_at_those_widths(task, plan, tmp_path):
    student, inputs = make_student(task), make_batch(task)
    sliced(student, plan)
    del student.projections
    fresh = type(student)(copy.deepcopy(student.config)).eval()
    fresh.load_state_dict(student.state_dict())
    assert torch.equal(logits_of(fresh, inputs), logits_of(student, inputs))
    for (name, module), (_, expected) in zip(student.named_modules(), fresh.named_modules(), strict=True):
        assert module.extra_repr() == expected.extra_repr(), name
        for attribute in ("num_attention_heads", "attention_head_size", "all_head_size", "scaling"):
            assert getattr(module, attribute, None) == getattr(expected, attribute, None), (name, attribute)
    student.save_pretrained(tmp_path)
    assert torch.equal(logits_of(type(student).from_pretrained(tmp_path).eval(), inputs), logits_of(student, inputs))


def test_modules_stay_and_parameters_are_contiguous_and_smaller():
    student = make_student()
    modules = list(student.modules())
    before = {name: parameter.numel() for name, parameter in student.named_parameters()}
    sliced(student, UNIFORM)
    assert all(old is new for old, new in zip(modules, student.modules(), strict=True))
    assert all(parameter.is_contiguous() and parameter.is_leaf for parameter in student.parameters())
    shrunk = {name for name, parameter in student.named_parameters() if parameter.numel() < before[name]}
    assert set(before) - shrunk == {"cls.predictions.bias"}
    assert {norm.normalized_shape for norm in student.modules() if isinstance(norm, nn.LayerNorm)} == {(16,)}


def test_a_parameter_that_loses_nothing_stays_and_so_does_its_optimizers_state():
    student = make_student()
    optimizer = torch.optim.AdamW(student.parameters())
    learn(student, make_batch())
    optimizer.step()
    before, moments = dict(student.named_parameters()), {p: dict(state) for p, state in optimizer.state.items()}
    groups, masks = masked(student, narrowed(intermediate_size=63))
    compact(student, groups, masks, plan=narrowed(intermediate_size=63), optimizer=optimizer)
    after = dict(student.named_parameters())
    changed = {name for name, parameter in after.items() if parameter is not before[name]}
    names = ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight")
    assert changed == {f"bert.encoder.layer.{layer}.{name}" for layer in range(2) for name in names}
    for name in after.keys() - changed:
        state = optimizer.state[after[name]]
        assert all(state[key] is value for key, value in moments[before[name]].items())


@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_stays_tied_or_untied(tied):
    student = make_student(tie_word_embeddings=tied)
    groups, masks = masked(student, UNIFORM)
    decoder = student.cls.predictions.decoder.weight.detach()[:, masks["hidden"]]
    compact(student, groups, masks, plan=UNIFORM)
    assert (student.get_output_embeddings().weight is student.get_input_embeddings().weight) == tied
    assert torch.equal(student.cls.predictions.decoder.weight, decoder)
    assert (student.cls.predictions.decoder.bias is student.cls.predictions.bias) == tied


def test_what_was_kept_is_told_and_projections_lose_the_students_channels_only():
    student = make_student()
    before = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    groups, masks = masked(student, UNEVEN)
    kept = compact(student, groups, masks, plan=UNEVEN)
    assert {name: units.tolist() for name, units in kept[0].items()} == {
        name: mask.nonzero().flatten().tolist() for name, mask in masks.items() if not mask.all()
    }
    left = kept_entries(before, kept)
    left |= {name: before[name][:, masks["hidden"]] for name in before if name.startswith("projections.")}
    for name, parameter in student.named_parameters():
        assert torch.equal(parameter, left[name])
    assert [parameter.shape for parameter in student.projections.parameters()] == [(32, 19)] * 3


def test_frozen_parameters_stay_frozen():
    student = make_student()
    student.bert.embeddings.requires_grad_(False)
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    sliced(student, UNIFORM)
    assert {name for name, parameter in student.named_parameters() if not parameter.requires_grad} == frozen != set()


# The optimizer follows

OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1, fused=False),
    "adamw fused": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1, fused=True),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1, amsgrad=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=0.1),
}


class Run:
    """The trainer's order of one step, without Trainer."""

    def __init__(self, optimizer: str = "adamw"):
        self.student = make_student().train()
        plain = [p for name, p in self.student.named_parameters() if p.dim() == 1]
        decayed = [p for name, p in self.student.named_parameters() if p.dim() > 1]
        groups = [{"params": decayed, "lr": 2e-3}, {"params": plain, "lr": 1e-3, "weight_decay": 0.0}]
        self.optimizer = OPTIMIZERS[optimizer](groups)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / 100)
        self.num_steps = 0

    def compact(self, plan: WidthPlan) -> Kept:
        groups, masks = masked(self.student, plan)
        return compact(self.student, groups, masks, plan=plan, optimizer=self.optimizer)

    def step(self) -> None:
        learn(self.student, make_batch(seed=self.num_steps))
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.num_steps += 1


def optimizer_state(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {key: value.clone() for key, value in run.optimizer.state[parameter].items() if torch.is_tensor(value)}
        for name, parameter in run.student.named_parameters()
    }


@pytest.mark.slow
@each("optimizer", OPTIMIZERS)
def test_moments_of_kept_weights_and_step_counters_are_kept(optimizer):
    run = Run(optimizer)
    for _ in range(3):
        run.step()
    before = optimizer_state(run)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in run.optimizer.param_groups]
    kept = run.compact(UNEVEN)
    after = optimizer_state(run)
    assert after.keys() == before.keys()
    assert len(run.optimizer.state) == len(after)
    for name, parameter in run.student.named_parameters():
        assert after[name].keys() == before[name].keys() != set()
        for key, value in before[name].items():
            if key == "step":
                assert after[name][key] == value == 3
                continue
            assert after[name][key].shape == parameter.shape
            assert torch.equal(after[name][key], kept_entries({name: value}, kept)[name])
    assert [{k: v for k, v in group.items() if k != "params"} for group in run.optimizer.param_groups] == settings
    assert {id(p) for group in run.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in run.student.parameters()
    }


@each("optimizer", OPTIMIZERS)
def test_every_parameter_moves_on_and_the_scheduler_still_steers(optimizer):
    run = Run(optimizer)
    run.step()
    run.compact(UNIFORM)
    before = {name: parameter.detach().clone() for name, parameter in run.student.named_parameters()}
    run.step()
    stuck = {name for name, parameter in run.student.named_parameters() if torch.equal(parameter, before[name])}
    # A key's bias shifts all scores of a query alike, so it has no gradient but noise.
    assert {name for name in stuck if not name.endswith("key.bias")} == set()
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([2e-3 * 0.98, 1e-3 * 0.98])
    assert run.scheduler.get_last_lr() == [group["lr"] for group in run.optimizer.param_groups]


def test_parameters_of_others_stay_with_the_optimizer():
    student, other = make_student(), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([*student.parameters(), other])
    groups, masks = masked(student, UNIFORM)
    compact(student, groups, masks, plan=UNIFORM, optimizer=optimizer)
    assert any(parameter is other for parameter in optimizer.param_groups[0]["params"])


def test_state_that_can_not_be_sliced_is_refused():
    student = make_student()
    groups, masks = masked(student, UNIFORM)
    optimizer = torch.optim.Adafactor(student.parameters())
    student(**make_batch() | {"attention_mask": None}).loss.backward()
    optimizer.step()
    with pytest.raises(ValueError, match="Adafactor keeps 'row_var' of shape .* can't be pruned alike; use an op"):
        compact(student, groups, masks, plan=UNIFORM, optimizer=optimizer)
    assert [id(p) for p in student.parameters()] == [id(p) for p in optimizer.param_groups[0]["params"]]
    assert widths_of(student.config) == FULL
