"""Nested students: another order of units is the same function, and the first units are a model of their own."""

import copy

import pytest
import torch
from students import (
    FULL,
    assert_same_logits,
    logits_of,
    make_batch,
    make_student,
    random_scores,
    unlabelled,
    zeroed_copy,
)
from tiny_architectures import FAMILIES, UNIFORM, dtype_of, plan_of, tiny_architecture_teacher
from torch import nn

from homodistil_hf.distillation.projections import Projections
from homodistil_hf.models.architectures.architecture import PROJECTIONS
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widest_of, widths_of
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.pruning.masks import first_units
from homodistil_hf.pruning.nested import MEMBERS, Member, move_units, moved_scores, unit_orders
from homodistil_hf.pruning.pruner import Pruner
from homodistil_hf.pruning.schedule import PruningSchedule

SMALL = WidthPlan.uniform(16, 2, LayerWidths(2, 4, 24))
LARGE = WidthPlan.uniform(24, 2, LayerWidths(3, 6, 40))


def with_projections(student):
    """A student with projections, and those of one member."""
    size, num_layers = student.config.hidden_size, student.config.num_hidden_layers
    projections = Projections(size, size, num_hidden_layers=num_layers)
    projections.add_module(MEMBERS, nn.ModuleList([copy.deepcopy(projections)]))
    student.add_module(PROJECTIONS, projections.to(student.dtype))
    return student


def cut(student, plan):
    smaller = copy.deepcopy(student)
    groups = encoder_groups(smaller)
    compact(smaller, groups, first_units(groups, plan), plan=plan)
    return smaller


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_first_units_are_the_exported_model_in_every_architecture(name):
    architecture, heads, config = FAMILIES[name]
    teacher = tiny_architecture_teacher(architecture, heads[0], **config)
    student = with_projections(to_student(teacher).to(dtype_of(architecture)).eval())
    batch = unlabelled(make_batch())
    before, groups = logits_of(student, batch), encoder_groups(student)
    full = widths_of(student.config)
    orders = unit_orders(random_scores(groups), within=full, to=plan_of(architecture, UNIFORM, **config))
    assert all(sorted(order.tolist()) == [*range(len(order))] for order in orders.values())
    move_units(student, groups, orders)
    assert_same_logits(logits_of(student, batch), before)
    assert_same_logits(logits_of(to_stock(cut(student, widths_of(student.config))).eval(), batch), before)
    plan = plan_of(architecture, UNIFORM, **config)
    member = Member(student, plan, name="small", number=0)
    member.narrow(groups, plan)
    found = logits_of(member.take_weights(), batch)
    smaller = cut(student, plan)
    assert torch.equal(found, logits_of(smaller, batch))
    assert_same_logits(found, logits_of(to_stock(smaller).eval(), batch))
    assert widths_of(member.model.config) == plan


def test_what_is_left_out_is_as_if_it_were_zero():
    student = with_projections(make_student(dtype=torch.float64)).eval()
    groups, plan = encoder_groups(student), WidthPlan.uniform(16, 2, LayerWidths(2, 8, 24))
    member = Member(student, plan, name="small", number=0)
    member.narrow(groups, plan)
    batch = unlabelled(make_batch())
    expected = logits_of(zeroed_copy(student, first_units(groups, plan)), batch)
    assert_same_logits(logits_of(member.take_weights(), batch), expected)


def test_a_member_learns_with_the_students_weights():
    student = with_projections(make_student()).eval()
    groups = encoder_groups(student)
    member = Member(student, SMALL, name="small", number=0)
    member.narrow(groups, SMALL)
    batch = unlabelled(make_batch())
    smaller = cut(student, SMALL)
    for model in (member.take_weights(), smaller):
        model(**batch).logits.square().sum().backward()
    named, own = dict(student.named_parameters()), encoder_groups(smaller)
    mask = first_units(groups, SMALL)["ffn.1"]
    for name in ("bert.encoder.layer.1.intermediate.dense.bias", "cls.predictions.bias"):
        gradient, expected = named[name].grad, smaller.get_parameter(name).grad
        kept = mask if name.endswith("intermediate.dense.bias") else torch.ones_like(gradient, dtype=torch.bool)
        assert torch.allclose(gradient[kept], expected, atol=1e-5)
        assert not gradient[~kept].any()
    assert own["ffn.1"].num_units == SMALL.layers[1].intermediate_size
    # the table of words is the decoder, too
    words = named["bert.embeddings.word_embeddings.weight"].grad
    assert torch.allclose(words[:, :16], smaller.get_input_embeddings().weight.grad, atol=1e-4)
    assert not words[:, 16:].any()


def test_orders_by_hand():
    scores = {
        "hidden": torch.tensor([1.0, 3.0, float("nan"), 2.0]),
        "head.0": torch.tensor([1.0, 2.0]),
        "query_key.0": torch.tensor([1.0, 2.0, 4.0, 3.0]),
        "value_output.0": torch.tensor([2.0, 1.0, 3.0, 4.0]),
        "ffn.0": torch.tensor([5.0, 5.0, 6.0]),
    }
    orders = unit_orders(
        scores,
        within=WidthPlan.uniform(4, 1, LayerWidths(2, 2, 2)),
        to=WidthPlan.uniform(2, 1, LayerWidths(1, 1, 1)),
    )
    assert orders["hidden"].tolist() == [1, 3, 0, 2]
    assert orders["head.0"].tolist() == [1, 0]
    # behind the move the second head's channels, 4 and 3, come first
    assert orders["query_key.0"].tolist() == [0, 1, 3, 2]
    assert orders["value_output.0"].tolist() == [1, 0, 2, 3]
    assert orders["ffn.0"].tolist() == [0, 1, 2]  # the third is not among the first two
    moved = moved_scores(scores, orders)
    assert moved["query_key.0"].tolist() == [4.0, 3.0, 2.0, 1.0]
    assert moved["value_output.0"].tolist() == [4.0, 3.0, 2.0, 1.0]


def test_what_loses_nothing_stays_in_its_order():
    groups = encoder_groups(make_student())
    narrower = WidthPlan.uniform(32, 2, LayerWidths(4, 4, 24))
    orders = unit_orders(random_scores(groups), within=FULL, to=narrower)
    assert set(orders) == {f"{kind}.{layer}" for kind in ("query_key", "value_output", "ffn") for layer in range(2)}


def test_the_state_of_an_optimizer_moves_along():
    student = with_projections(make_student())
    optimizer = torch.optim.AdamW(student.parameters())
    student(**unlabelled(make_batch())).logits.square().sum().backward()
    optimizer.step()
    groups = encoder_groups(student)
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    weight = student.get_parameter(name)
    before, moments = weight.detach().clone(), optimizer.state[weight]["exp_avg"].clone()
    orders = unit_orders(random_scores(groups), within=FULL, to=SMALL)
    move_units(student, groups, orders, optimizer=optimizer)
    assert student.get_parameter(name) is weight
    for found, old in ((weight, before), (optimizer.state[weight]["exp_avg"], moments)):
        assert torch.equal(found, old[orders["ffn.0"]][:, orders["hidden"]])


def units_of(student, plan):
    """Neurons of the first layer and hidden channels that a member of a plan has, by values that mark them."""
    neurons = student.get_parameter("bert.encoder.layer.0.intermediate.dense.bias")
    channels = student.get_parameter("bert.embeddings.LayerNorm.bias")
    return (
        set(neurons[: plan.layers[0].intermediate_size].tolist()),
        set(channels[: plan.hidden_size].tolist()),
    )


def test_members_only_lose_units_on_the_way():
    student = with_projections(make_student())
    middle = WidthPlan.uniform(20, 2, LayerWidths(3, 4, 32))
    pruner = Pruner(student, SMALL, floor=LARGE, multiple=1)
    schedule = PruningSchedule((0.0, 1.0), 1, 20)
    generator, kept = torch.Generator().manual_seed(0), {}
    batch = unlabelled(make_batch())
    for step in range(20):
        # scores that change all the time
        pruner.scores.state = {
            name: torch.rand(len(values), generator=generator) for name, values in pruner.scores.state.items()
        }
        pruner.step(step, schedule)
        outer = widths_of(student.config)
        assert outer == widest_of(pruner.innermost, LARGE)
        for name, plan in {"large": LARGE, "middle": middle, "small": SMALL}.items():
            now = units_of(student, widest_of(pruner.innermost, plan))
            assert all(found <= before for found, before in zip(now, kept.get(name, now), strict=True))
            kept[name] = now
        assert all(small <= large for small, large in zip(kept["small"], kept["large"], strict=True))
        student(**batch)
    assert pruner.plan_reached
    assert pruner.innermost == SMALL
    assert widths_of(student.config) == LARGE
