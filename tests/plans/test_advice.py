"""What `homodistil plan` says of a budget of tokens: the nearest measurement, and no more than was measured."""

import re

import pytest
from rows import each
from transformers import BertConfig

from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.plans.advice import Measured, advise, doubts
from homodistil_hf.plans.resolve import resolve_plan


def point(**values):
    given = {"encoder_macs": 0.25, "num_tokens": 2_000_000, "num_seeds": 3, "kl": 0.3, "shape": "192-8x24-704"}
    return Measured(**given | {"accuracy_kept": 0.912} | values)


POINTS = [point(), point(num_tokens=500_000, kl=0.7), point(encoder_macs=0.5, num_seeds=1)]


def test_fine_tuned_students_are_told_of():
    text = advise(0.25, 2e6, measured=[point(glue_kept=0.949, glue_above=0.894)], teacher="x")
    words = "it kept 95 % of that one's mean over five GLUE tasks, 89 % of what is above constant answers"
    assert f"  fine-tuned beside its fine-tuned teacher {words}" in text
    assert "fine-tuned" not in advice(0.25, 2e6)


def advice(fraction: float, num_tokens: float) -> str:
    return advise(fraction, num_tokens, measured=POINTS, teacher="a small one")


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [
        (3e6, "ended 0.300 nats from its teacher"),
        (4e5, "ended 0.700 nats from its teacher"),
    ],
)
def test_the_nearest_budget_decides(num_tokens, expected):
    text = advice(0.24, num_tokens)
    assert expected in text
    assert "to 192-8x24-704, 0.25 of the encoder MACs (3 seeds, teacher: a small one)" in text
    assert "kept 91 % of its masked-LM accuracy" in text
    assert "as a direction only" not in text


def test_a_shallow_cut_may_be_made_at_once():
    assert "in such a run --method one_shot, which prunes before the first step, ends level" in advice(0.25, 2e6)
    assert "one_shot" not in advise(0.125, 2e6, measured=[point(encoder_macs=0.125)], teacher="x")
    assert "one_shot" not in advise(0.125, 4e6, measured=[point(encoder_macs=0.125)], teacher="x")
    assert "one_shot" not in advise(0.0625, 4e6, measured=[point(encoder_macs=0.0625)], teacher="x")


def plan_of(hidden_size, num_attention_heads, intermediate_size, num_layers=6):
    head_dim = hidden_size // num_attention_heads
    return WidthPlan.uniform(hidden_size, num_layers, LayerWidths(num_attention_heads, head_dim, intermediate_size))


TEACHER = plan_of(384, 12, 1536)
TEACHER_CONFIG = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def test_what_is_far_smaller_than_anything_measured_is_warned_of():
    for budget in ("macs=0.5", "macs=0.25", "macs=0.125", "macs=0.0625"):  # the sizes of docs/results.md
        assert doubts(resolve_plan(budget, TEACHER_CONFIG), widths_of(TEACHER_CONFIG)) == []
    (deep,) = doubts(plan_of(48, 2, 96), TEACHER)
    assert deep.startswith("the student keeps 0.016 of its teacher's encoder MACs; nothing below 0.0625 was measured")
    (thin,) = doubts(plan_of(384, 12, 16, num_layers=4), TEACHER)
    assert thin.startswith("the student's FFNs keep 16 of 1,536 neurons, as its other widths take the budget")
    assert len(doubts(plan_of(48, 2, 8), TEACHER)) == 2


def test_a_size_that_was_not_measured_has_no_advice_and_far_budgets_have_a_direction():
    assert "within a factor of 2 of your tokens" in advice(0.25, 1e9)
    assert "to 192-8x24-704, 0.50 of the encoder MACs (1 seed, teacher" in advice(0.5, 2e6)
    assert advice(0.25, 4000).startswith("advice for 0.004 M tokens")
    assert advice(0.25, 14.7e9).startswith("advice for 14,700 M tokens")
    assert re.search(r"none, students of 0\.10 of .* were not measured \(measured: 0\.25, 0\.50\)$", advice(0.1, 1e6))
    assert advise(0.1, 1e6, measured=[], teacher="x").endswith("(measured: nothing yet)")


@each("num_tokens", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_that_is_none_is_refused(num_tokens):
    with pytest.raises(
        ValueError, match=f"num_tokens={num_tokens} is not a positive number; give what you will train"
    ):
        advice(0.25, num_tokens)
