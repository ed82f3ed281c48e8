import itertools
import math
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rows import each
from transformers import BertConfig

from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig
from homodistil_hf.models.cost import count_parameters, encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.plans.budgets import plan_for_budget
from homodistil_hf.plans.resolve import PRESETS, check_plan, too_wide
from homodistil_hf.plans.shape_law import SHAPE_LAW, Term


def bert(
    hidden_size: int, num_heads: int, *, num_layers: int = 12, vocab_size: int = 30522, ffn: int = 0
) -> BertConfig:
    return BertConfig(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        num_hidden_layers=num_layers,
        intermediate_size=ffn or 4 * hidden_size,
        vocab_size=vocab_size,
    )


TEACHERS = {
    "base": bert(768, 12),
    "large": bert(1024, 16, num_layers=24),
    "six layers": bert(384, 12, num_layers=6),
    "TinyBERT": bert(312, 12, num_layers=4, ffn=1200),
    "BERT-mini": bert(256, 4, num_layers=4),
    "BERT-tiny": bert(128, 2, num_layers=2),
    "multilingual": bert(768, 12, vocab_size=119547),
    "test size": bert(32, 4, num_layers=2, vocab_size=120),
    "thin heads": bert(64, 16, num_layers=2, vocab_size=200),
    "one head": bert(64, 1, num_layers=1, vocab_size=200),
    "three heads": bert(48, 3, num_layers=3, vocab_size=150),
    "narrow FFN": bert(128, 4, num_layers=3, vocab_size=500, ffn=96),
    "odd widths": bert(100, 4, num_layers=2, vocab_size=300, ffn=350),
}


def cost(kind: str, plan: WidthPlan, config: BertConfig) -> float:
    if kind == "params":
        return count_parameters(plan, config)
    return encoder_macs(plan) / encoder_macs(widths_of(config))


def ffn_step(kind: str, plan: WidthPlan, config: BertConfig, multiple: int) -> float:
    """What so many more neurons in every layer cost."""
    layer = plan.layers[0]
    wider = LayerWidths(layer.num_attention_heads, layer.head_dim, layer.intermediate_size + multiple)
    return cost(kind, WidthPlan.uniform(plan.hidden_size, len(plan.layers), wider), config) - cost(kind, plan, config)


def assert_meets_budget(kind: str, target: float, config: BertConfig, multiple: int = 8) -> WidthPlan:
    plan = plan_for_budget(f"{kind}={target!r}", config, multiple=multiple)
    teacher, layer = widths_of(config), plan.layers[0]
    check_plan(plan, teacher)
    assert plan.is_uniform
    assert plan.padded() == plan
    for width, limit in (
        (plan.hidden_size, teacher.hidden_size),
        (layer.intermediate_size, teacher.layers[0].intermediate_size),
    ):
        assert width % multiple == 0 or width == limit
    error = abs(cost(kind, plan, config) - target)
    # between two hidden sizes there may be costs that no FFN size has: then nothing is nearer
    if error > max(0.03 * target, ffn_step(kind, plan, config, multiple)):
        assert error <= least_error(kind, target, config, multiple, teacher) + 1e-9 * target
    return plan


def least_error(kind: str, target: float, config: BertConfig, multiple: int, limit: WidthPlan) -> float:
    """The least distance from a cost of all stock shapes within a limit, by trying the ends of every FFN."""
    most, errors = limit.layers[0], []
    for hidden_size in {*range(multiple, limit.hidden_size, multiple), limit.hidden_size}:
        for heads in range(1, most.num_attention_heads + 1):
            if hidden_size % heads or hidden_size // heads > most.head_dim:
                continue
            for ffn in (min(multiple, most.intermediate_size), most.intermediate_size):
                layer = LayerWidths(heads, hidden_size // heads, ffn)
                plan = WidthPlan.uniform(hidden_size, len(limit.layers), layer)
                errors.append(abs(cost(kind, plan, config) - target))
    return min(errors)


@pytest.mark.slow
@given(
    num_heads=st.integers(1, 16),
    head_dim=st.integers(8, 80),
    ffn_ratio=st.floats(0.5, 6),
    num_layers=st.integers(1, 24),
    vocab_size=st.integers(50, 50_000),
    multiple=st.sampled_from([1, 4, 8, 16]),
    kind=st.sampled_from(["macs", "params"]),
    fraction=st.floats(0.02, 1),
)
@settings(deadline=None, max_examples=100)
def test_budgets_are_met_for_any_teacher(
    num_heads, head_dim, ffn_ratio, num_layers, vocab_size, multiple, kind, fraction
):
    hidden_size = num_heads * head_dim
    ffn = max(1, round(ffn_ratio * hidden_size))
    config = bert(hidden_size, num_heads, num_layers=num_layers, vocab_size=vocab_size, ffn=ffn)
    whole = cost(kind, widths_of(config), config)
    target = round(fraction * whole) if kind == "params" else fraction
    try:
        assert_meets_budget(kind, target, config, multiple)
    except ValueError as error:
        assume("out of this teacher's reach" not in str(error))
        raise


SIX = TEACHERS["six layers"]


@each(
    ("config", "budget", "plan"),
    [
        (BertConfig(), "params=14M", PRESETS["homobert-tiny"]),
        (BertConfig(), "params=14200000", PRESETS["homobert-tiny"]),
        (BertConfig(), "params=17400k", PRESETS["homobert-small"]),
        (BertConfig(), "params=0.0657B", PRESETS["homobert-base"]),
        (BertConfig(), " params = 65.7e6 ", PRESETS["homobert-base"]),
        # the narrowest preset has twelve heads of 20
        (BertConfig(), "params=15.8M", WidthPlan.uniform(240, 12, LayerWidths(10, 24, 960))),
        # the law's: a wide hidden size, a narrow FFN, three quarters of a head's channels
        (SIX, "macs=0.25", WidthPlan.uniform(240, 6, LayerWidths(10, 24, 368))),
        (SIX, "macs=0.25, hidden_size=224", WidthPlan.uniform(224, 6, LayerWidths(7, 32, 464))),
        (SIX, "macs=0.25, num_attention_heads=8, hidden_size=224", WidthPlan.uniform(224, 6, LayerWidths(8, 28, 464))),
        # the compact form has narrow attention in a wider hidden size
        (SIX, "compact_macs=0.25", WidthPlan.uniform(272, 6, LayerWidths(8, 24, 384))),
    ],
)
def test_plans_by_hand(config, budget, plan):
    assert plan_for_budget(budget, config) == plan


@each("config", TEACHERS.values())
def test_the_whole_budget_is_the_teacher_itself(config):
    teacher = widths_of(config)
    assert plan_for_budget("macs=1", config) == teacher
    assert plan_for_budget(f"params={count_parameters(teacher, config)}", config) == teacher


@each("share", [0.06, 0.12, 0.25, 0.5])
@each("teacher", ["base", "six layers"])
def test_budgets_of_macs_take_the_best_shape_by_the_law(teacher, share):
    """Beside every other stock shape of as many MACs, of heads whose channels are a multiple of 8."""
    config, whole = TEACHERS[teacher], widths_of(TEACHERS[teacher])
    most = whole.layers[0]

    def expected(plan: WidthPlan) -> float:
        layer = plan.layers[0]
        kl = SHAPE_LAW(
            layers=1.0,
            hidden_size=plan.hidden_size / whole.hidden_size,
            num_heads=layer.num_attention_heads / most.num_attention_heads,
            head_dim=layer.head_dim / most.head_dim,
            ffn_size=layer.intermediate_size / most.intermediate_size,
        )
        return math.log(kl) + abs(cost("macs", plan, config) / share - 1)

    found = plan_for_budget(f"macs={share}", config)
    assert found.layers[0].head_dim % 8 == 0
    for heads, channels in itertools.product(range(1, most.num_attention_heads + 1), range(8, most.head_dim + 1, 8)):
        sizes = [
            WidthPlan.uniform(heads * channels, len(whole.layers), LayerWidths(heads, channels, ffn))
            for ffn in (0, *range(8, most.intermediate_size + 1, 8))
        ]
        costs = [
            cost("macs", sizes[0], config) + ffn_step("macs", sizes[0], config, number * 8)
            for number, _ in enumerate(sizes)
        ]
        other = min(sizes[1:], key=lambda plan: abs(costs[plan.layers[0].intermediate_size // 8] - share))
        assert abs(cost("macs", other, config) / share - 1) > 0.03 or expected(found) <= expected(other) + 1e-9


@each("teacher", ["base", "large", "six layers"])
@each("share", [0.6, 0.4, 0.25, 0.15])
def test_narrow_attention_costs_what_was_asked_for_and_fits_a_stock_bert(teacher, share):
    config = TEACHERS[teacher]
    plan, whole = plan_for_budget(f"compact_macs={share}", config), widths_of(config)
    layer = plan.layers[0]
    assert encoder_macs(plan) / encoder_macs(whole) == pytest.approx(share, rel=0.03)
    is_narrow = layer.num_attention_heads * layer.head_dim < plan.hidden_size
    assert is_narrow or share > 0.5
    assert layer.num_attention_heads * plan.padded().layers[0].head_dim == plan.hidden_size


@pytest.mark.parametrize("kind", ["macs", "compact_macs", "params"])
def test_the_layers_can_be_named_beside_a_budget(kind):
    teacher = TEACHERS["six layers"]
    budget = f"{kind}={'14M' if kind == 'params' else '0.25'}"
    plan, whole = (plan_for_budget(budget + more, teacher) for more in (",layers=4", ""))
    assert (len(plan.layers), len(whole.layers)) == (4, 6)
    assert plan.hidden_size > whole.hidden_size
    assert cost(kind, plan, teacher) == pytest.approx(14e6 if kind == "params" else 0.25, rel=0.03)
    assert plan_for_budget(f"{budget},layers=6", teacher) == whole


@each(
    ("teacher", "budget", "num_layers"),
    [
        ("six layers", "macs=0.25", 6),
        ("six layers", "macs=0.125", 5),
        ("six layers", "macs=0.0625", 3),
        ("six layers", "compact_macs=0.125", 6),
        ("six layers", "macs=0.0625,num_attention_heads=4", 6),
        ("six layers", "params=3M", 6),
        ("base", "macs=0.25", 12),
        ("base", "macs=0.125", 11),
    ],
)
def test_narrow_budgets_leave_layers_out(teacher, budget, num_layers):
    config = TEACHERS[teacher]
    plan = plan_for_budget(budget, config, fewer_layers_below=128)
    assert len(plan.layers) == num_layers
    assert plan == plan_for_budget(budget if "," in budget else f"{budget},layers={num_layers}", config)


@each("share", [0.9, 0.5, 0.1, 0.05])
def test_no_more_than_half_of_the_layers_are_left_out(share, monkeypatch):
    teacher = BertConfig(hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=256)
    free_depth = SHAPE_LAW._replace(layers=Term(0.0, 1.0))
    monkeypatch.setattr("homodistil_hf.plans.budgets.SHAPE_LAW", free_depth)
    plan = plan_for_budget(f"macs={share}", teacher, fewer_layers_below=128)
    assert len(plan.layers) == (2 if share <= 0.5 else 4)
    assert encoder_macs(plan) / encoder_macs(widths_of(teacher)) == pytest.approx(share, rel=0.1)
    if share > 0.5:
        assert len(plan_for_budget("macs=0.6", teacher, plain=True, fewer_layers_below=128).layers) == 4


@each(
    ("budget", "message"),
    [
        ("macs=0.25,layers=7", r"layers=7 is outside \[1, 6\]; the teacher has 6"),
        (
            "macs=0.9,layers=4",
            "out of this teacher's reach; nearest valid: from 'macs=0.0.*,layers=4' to 'macs=0.6666,",
        ),
        ("macs=0.25,num_attention_heads=13", r"num_attention_heads=13 is outside \[1, 12\]; the teacher has 12"),
        ("macs=0.25,hidden_size=392", r"hidden_size=392 is outside \[1, 384\]; the teacher has 384"),
        (
            "macs=0.25,hidden_size=216,num_attention_heads=7",
            "hidden_size=216 doesn't split into 7 heads of 32 or fewer",
        ),
        ("macs=0.5,hidden_size=192", "to 'macs=0.42\\d*,hidden_size=192'"),
        ("macs=0.25,num_attention_heads=8,num_attention_heads=6", "is no number of macs"),
        ("macs=0.25,num_attention_heads=0", r"num_attention_heads=0 is outside \[1, 12\]"),
        (
            "macs=0.25,head_dim=8",
            "is no number of macs; .* and no more than hidden_size, num_attention_heads and layers behind it",
        ),
        ("macs=0.9,num_attention_heads=6", "out of this teacher's reach; .* to 'macs=0.42\\d*,num_attention_heads=6'"),
    ],
)
def test_impossible_heads_are_refused(budget, message):
    with pytest.raises(ValueError, match=message):
        plan_for_budget(budget, TEACHERS["six layers"])


def test_an_uneven_teacher_gets_a_uniform_student_within_its_narrowest_layer():
    layers = [
        {"num_attention_heads": 4, "head_dim": 16, "intermediate_size": 128},
        {"num_attention_heads": 3, "head_dim": 12, "intermediate_size": 200},
    ]
    config = HomoBertConfig(hidden_size=64, num_hidden_layers=2, per_layer_config=dict(enumerate(layers)))
    plan = plan_for_budget("macs=0.2", config)
    check_plan(plan, widths_of(config))
    assert plan.padded() == plan
    assert encoder_macs(plan) / encoder_macs(widths_of(config)) == pytest.approx(0.2, rel=0.05)


@each(
    ("budget", "message"),
    [
        ("param=14M", "student='param=14M' limits no known cost; nearest valid: 'params=14M'"),
        ("mac=1", "limits no known cost; nearest valid: 'macs=0.25'"),
        ('["macs=0.5", "macs=0.25"]', "names several sizes; nested=True has all in one set of weights, else"),
        ("=14M", "limits no known cost; expected one of params=14M, macs="),
        ("params=", "is no number of params; .* for example 'params=14M'"),
        ("params=14MB", "is no number of params; .* for example 'params=14M'"),
        ("params=1,5M", "is no number of params"),
        ("macs=0.25M", "is no number of macs; .* for example 'macs=0.25'"),
        ("params=110M", "out of this teacher's reach; .* from 'params=253872' to 'params=108891648'"),
        ("macs=1.01", "out of this teacher's reach; .* from 'macs=0.0004' to 'macs=1'"),
        ("macs=0", "out of this teacher's reach"),
    ],
)
def test_impossible_budgets_are_refused(budget, message):
    with pytest.raises(ValueError, match=message):
        plan_for_budget(budget, BertConfig())


@pytest.mark.slow
@each("kind", ["macs", "params"])
@each("config", TEACHERS.values())
def test_both_ends_of_the_reachable_range_can_be_asked_for(config, kind):
    with pytest.raises(ValueError, match="out of this teacher's reach") as error:
        plan_for_budget(f"{kind}=1e30", config)
    smallest, largest = re.search(rf"from '({kind}=[\d.]+)' to '({kind}=[\d.]+)'", str(error.value)).groups()
    assert plan_for_budget(smallest, config).hidden_size <= plan_for_budget(largest, config).hidden_size


@each("shares", [(0.5, 0.25, 0.125), (0.75, 0.5, 0.25), (0.8, 0.6, 0.4, 0.2)])
@each(("hidden_size", "num_heads"), [(64, 4), (128, 2), (312, 12), (384, 12), (768, 12), (1024, 16)])
def test_smaller_budgets_are_planned_within_larger_ones(hidden_size, num_heads, shares):
    config = BertConfig(
        hidden_size=hidden_size, num_attention_heads=num_heads, intermediate_size=4 * hidden_size, num_hidden_layers=4
    )
    earlier = widths_of(config)
    for share in shares:
        plan = plan_for_budget(f"macs={share}", config, within=earlier)
        assert too_wide(plan, earlier) is None
        assert plan.padded() == plan
        error = abs(cost("macs", plan, config) - share)
        if error > max(0.03 * share, ffn_step("macs", plan, config, 8)):
            assert error <= least_error("macs", share, config, 8, earlier) + 1e-9
        earlier = plan


def test_named_heads_are_no_more_than_those_of_the_member_before():
    earlier = plan_for_budget("macs=0.25", SIX)  # of ten heads
    with pytest.raises(ValueError, match=r"num_attention_heads=12 is outside \[1, 10\]; the member before has 10"):
        plan_for_budget("macs=0.125,num_attention_heads=12", SIX, within=earlier)
    plan = plan_for_budget("macs=0.125,num_attention_heads=8", SIX, within=earlier)
    assert too_wide(plan, earlier) is None


def test_a_multiple_that_leaves_no_plan_is_refused():
    layers = [{"num_attention_heads": 1, "head_dim": 4, "intermediate_size": 16}] * 2
    config = HomoBertConfig(hidden_size=64, num_hidden_layers=2, per_layer_config=dict(enumerate(layers)))
    with pytest.raises(ValueError, match="multiple=8 leaves no hidden size that splits into 1 heads of 4 or fewer"):
        plan_for_budget("macs=0.5", config)
    assert plan_for_budget("macs=0.1", config, multiple=1).hidden_size <= 4
