"""Plain students keep the hidden size: budgets plan them or name the smallest, and every way in knows them."""

import re

import pytest
from rows import each
from transformers import BertConfig

from homodistil_hf.models.cost import count_parameters, encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.plans.budgets import plan_for_budget, plan_for_latency
from homodistil_hf.plans.resolve import check_plan, resolve_plan, too_wide

SIX = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
TEACHERS = {
    "six layers": SIX,
    "base": BertConfig(),
    "one head": BertConfig(hidden_size=64, num_attention_heads=1, num_hidden_layers=1, intermediate_size=256),
    "odd widths": BertConfig(hidden_size=100, num_attention_heads=4, num_hidden_layers=2, intermediate_size=350),
}
of_teachers = each("config", TEACHERS.values())


def share_of(plan: WidthPlan, config: BertConfig) -> float:
    return encoder_macs(plan) / encoder_macs(widths_of(config))


@of_teachers
@each("share", [1.0, 0.9, 0.7, 0.55])
def test_macs_of_a_stock_class_are_met_by_ffns_alone(config, share):
    plan, teacher = resolve_plan(f"macs={share}", config, plain=True), widths_of(config)
    assert plan.hidden_size == teacher.hidden_size
    assert plan.layers[0].attention_size == teacher.hidden_size  # a stock class would pad narrower attention
    assert plan.padded() == plan
    one_step = LayerWidths(*[*teacher.layers[0].__dict__.values()][:2], plan.layers[0].intermediate_size + 8)
    step = share_of(WidthPlan.uniform(plan.hidden_size, len(plan.layers), one_step), config) - share_of(plan, config)
    assert share_of(plan, config) == pytest.approx(share, abs=max(0.03 * share, step))


@of_teachers
@each("share", [1.0, 0.75, 0.5, 0.25])
def test_macs_of_the_compact_form_are_met_by_heads_and_ffns(config, share):
    plan, teacher = resolve_plan(f"compact_macs={share}", config, plain=True), widths_of(config)
    check_plan(plan, teacher)
    assert plan.padded().hidden_size == plan.hidden_size == teacher.hidden_size
    layer = plan.layers[0]
    kept = layer.attention_size / teacher.hidden_size, layer.intermediate_size / teacher.layers[0].intermediate_size
    assert share == 1 or min(kept) < 1
    assert share > 0.5 or max(kept) < 1
    assert share_of(plan, config) == pytest.approx(share, rel=0.07 if teacher.hidden_size <= 100 else 0.03)


def test_the_shapes_of_a_six_layer_teacher():
    shapes = {budget: resolve_plan(budget, SIX, plain=True).layers[0] for budget in ("macs=0.5", "compact_macs=0.5")}
    assert shapes == {"macs=0.5": LayerWidths(12, 32, 320), "compact_macs=0.5": LayerWidths(12, 24, 544)}


def test_parameters_of_embeddings_stay():
    plan = resolve_plan("params=18M", SIX, plain=True)
    assert plan.hidden_size == 384
    assert count_parameters(plan, SIX) == pytest.approx(18e6, rel=0.03)


@of_teachers
@each("kind", ["macs", "compact_macs", "params"])
def test_a_budget_that_is_too_small_names_the_smallest(config, kind):
    with pytest.raises(
        ValueError, match="as plain students keep the hidden size; leave plain out for smaller"
    ) as told:
        plan_for_budget(f"{kind}=0", config, plain=True)
    smallest = re.search(rf"from '({kind}=[\d.]+)' to", str(told.value))[1]
    plan = plan_for_budget(smallest, config, plain=True)
    assert (plan.hidden_size, plan.layers[0].intermediate_size) == (config.hidden_size, 8)


@pytest.mark.parametrize(("config", "smallest"), [(BertConfig(), "macs=0.3531"), (SIX, "macs=0.3718")])
def test_the_smallest_share_is_the_documented_one(config, smallest):
    with pytest.raises(ValueError, match=f"from '{smallest}' to"):
        resolve_plan("macs=0.01", config, plain=True)


def milliseconds(plan: WidthPlan) -> float:
    return encoder_macs(plan) / 1e6


def test_milliseconds_are_met_by_ffns_alone():
    plan = plan_for_latency(8.0, SIX, measure=milliseconds, plain=True)
    assert plan.layers[0].attention_size == plan.hidden_size == 384
    assert 0.98 * 8 < milliseconds(plan) <= 8
    with pytest.raises(ValueError, match="from 'latency_ms=4.1657' to .*as plain students keep the hidden size"):
        plan_for_latency(3.0, SIX, measure=milliseconds, plain=True)
    assert milliseconds(plan_for_latency(4.1657, SIX, measure=milliseconds, plain=True)) <= 4.1657


@each(
    ("student", "message"),
    [
        ("homobert-tiny", 'hidden_size=224 is not the teacher\'s 768, .*: {"hidden_size": 768, .*, or leave plain'),
        ("216-9x24-528", 'hidden_size=216 is not the teacher\'s 768, .*: {"hidden_size": 768, .*, or leave plain out'),
        ("macs=0.5,hidden_size=216", "names hidden_size=216, but plain students keep the teacher's 768; leave one"),
    ],
)
def test_another_hidden_size_is_refused(student, message):
    with pytest.raises(ValueError, match=message):
        resolve_plan(student, BertConfig(), plain=True)


def test_a_written_plan_and_a_preset_of_that_hidden_size_are_taken():
    assert resolve_plan("768-6x32-1000", BertConfig(), plain=True).layers[0] == LayerWidths(6, 32, 1000)
    narrow = BertConfig(hidden_size=576, num_attention_heads=12)
    assert resolve_plan("homobert-base", narrow, plain=True).hidden_size == 576


@each("kind", ["macs", "compact_macs"])
def test_a_family_is_planned_member_within_member(kind):
    earlier = widths_of(SIX)
    for share in (0.8, 0.6, 0.45):
        plan = resolve_plan(f"{kind}={share}", SIX, within=earlier, plain=True)
        assert too_wide(plan, earlier) is None
        assert plan.hidden_size == 384
        assert share_of(plan, SIX) == pytest.approx(share, rel=0.05)
        earlier = plan
