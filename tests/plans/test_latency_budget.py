"""Plans for milliseconds. Times are made by formula; nothing here depends on a measured time."""

import json
import re

import pytest
import torch
from rows import each
from tiny_architectures import of_every_architecture, tiny_architecture_config
from tiny_models import make_teacher, tiny_config
from transformers import BertConfig

from homodistil_hf import resolve_plan
from homodistil_hf.cli import main
from homodistil_hf.models.conversion import stock_config
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import WidthPlan, widths_of
from homodistil_hf.plans import latency as planning
from homodistil_hf.plans.budgets import is_latency_budget, plan_for_budget, plan_for_latency
from homodistil_hf.plans.latency import LatencyBudget, encoder_times, measure_plan, plan_within
from homodistil_hf.runs.plan import format_planned_latency

BASE = widths_of(BertConfig())


def formula_ms(plan: WidthPlan) -> float:
    """Milliseconds that rise with every width."""
    hidden_size = plan.hidden_size
    return (0.01 + 1e-4 * hidden_size) + sum(
        (0.05 + 0.01 * layer.num_attention_heads + 5e-6 * hidden_size * layer.attention_size)
        + (0.02 + 2.5e-6 * hidden_size * layer.intermediate_size)
        for layer in plan.layers
    )


@pytest.fixture
def formula_times(monkeypatch):
    """`encoder_times` by formula; yields the conditions of its calls."""
    calls = []

    def times(shapes, conditions, **_):
        calls.append(conditions)
        return {name: [formula_ms(widths_of(shape))] for name, shape in shapes.items()}

    monkeypatch.setattr(planning, "encoder_times", times)
    return calls


@each(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is too small; nearest valid: 1"),
        ({"length": 1}, "length=1 is too small; nearest valid: 2"),
        ({"backend": "tensorrt"}, "backend='tensorrt' can't time plans; expected one of 'torch', 'onnx"),
        ({"backend": "compiled"}, "backend='compiled' can't time plans; expected one of 'torch', 'onnxruntime'"),
    ],
)
def test_impossible_conditions_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LatencyBudget(5.0, **values)


# The search


@pytest.mark.slow
@each("limit_ms", [5.0, 12.0, 40.0, 100.0])
def test_the_largest_plan_within_the_budget_is_found(limit_ms):
    plan = plan_for_latency(limit_ms, BertConfig(), measure=formula_ms)
    assert 0.9 * limit_ms < formula_ms(plan) <= limit_ms
    assert plan.padded() == plan
    assert (plan.hidden_size % 8, plan.layers[0].intermediate_size % 8) == (0, 0)
    others = [plan_for_budget(f"macs={percent / 100}", BertConfig()) for percent in range(2, 100, 3)]
    sizes = [encoder_macs(other) for other in others if formula_ms(other) <= limit_ms]
    assert encoder_macs(plan) >= 0.95 * max(sizes)  # what is less like the teacher must be larger


@pytest.mark.slow
def test_more_time_never_gives_a_smaller_plan():
    sizes = [encoder_macs(plan_for_latency(ms, BertConfig(), measure=formula_ms)) for ms in range(5, 100, 5)]
    assert sizes == sorted(sizes)


def test_times_that_do_not_rise_with_every_width_never_break_the_budget():
    def jagged(plan: WidthPlan) -> float:
        return formula_ms(plan) * (1 + 0.2 * ((plan.layers[0].intermediate_size // 8) % 3))

    assert jagged(plan_for_latency(20.0, BertConfig(), measure=jagged)) <= 20.0


@pytest.mark.slow
@pytest.mark.parametrize("limit_ms", [0.5, 500.0])
def test_a_budget_out_of_reach_names_the_range_and_its_ends_can_be_met(limit_ms):
    with pytest.raises(
        ValueError, match="is out of this teacher's reach on this machine; nearest valid: from"
    ) as error:
        plan_for_latency(limit_ms, BertConfig(), measure=formula_ms)
    ends = [float(number) for number in re.findall("'latency_ms=([^']*)'", str(error.value))[1:]]
    lowest, highest = (plan_for_latency(end, BertConfig(), measure=formula_ms) for end in ends)
    assert formula_ms(lowest) <= ends[0]
    assert formula_ms(highest) <= ends[1] <= formula_ms(BASE)


# The budget as a student


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("latency_ms=5", LatencyBudget(5.0)),
        (" latency_ms = 2.5 , length = 64 ", LatencyBudget(2.5, length=64)),
        ("latency_ms=1e1,backend=torch,batch_size=32", LatencyBudget(10.0, batch_size=32)),
    ],
)
def test_budgets_are_read(text, budget):
    assert is_latency_budget(text)
    assert LatencyBudget.parse(text) == budget


@each(
    ("text", "message"),
    [
        ("latency_ms=fast", "is no latency budget; expected for example 'latency_ms=5,"),
        ("latency_ms=", "is no latency budget; expected for example"),
        ("latency_ms=0", "is no positive time; expected for example"),
        ("latency_ms=inf", "is no positive time; expected for example"),
        ("latency_ms=5,layers=4", "unknown condition 'layers'; expected one of"),
        ("latency_ms=5,lenght=64", "has the unknown condition 'lenght'; nearest valid: 'length'"),
        ("latency_ms=5,length=many", "is no latency budget; expected for example"),
    ],
)
def test_what_is_no_budget_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        LatencyBudget.parse(text)


def test_a_latency_budget_is_a_student_like_any_other(formula_times):
    plan = resolve_plan("latency_ms=20,length=64", BertConfig())
    assert plan == plan_for_latency(20.0, BertConfig(), measure=formula_ms)
    assert {*formula_times} == {LatencyBudget(20.0, length=64)}
    assert len(formula_times) < 15


def test_a_default_length_is_lowered_to_the_positions(formula_times):
    resolve_plan("latency_ms=0.24", tiny_config())
    resolve_plan("latency_ms=20", BertConfig())
    assert list(dict.fromkeys(formula_times)) == [LatencyBudget(0.24, length=32), LatencyBudget(20.0, length=128)]


def test_a_chosen_plan_is_timed_beside_its_teacher(formula_times):
    config = tiny_config()
    budget = LatencyBudget(0.24, length=16)
    plan, facts = plan_within(budget, config)
    found = facts["predicted_ms"]
    assert found == pytest.approx({"student": formula_ms(plan), "teacher": formula_ms(widths_of(config))})
    measured = measure_plan(plan, config, budget)
    assert {name: times["median_ms"] for name, times in measured["latency"].items()} == found
    assert measured["speed_up"]["ratio"] == found["teacher"] / found["student"]
    text = format_planned_latency(facts | {"measured": measured})
    assert "(batch 1, length 16, torch, float32), budget 0.24 ms" in text
    assert f"predicted: student {found['student']:.2f} ms, teacher {found['teacher']:.2f} ms" in text
    assert f"measured:  student {measured['latency']['student']['median_ms']:.2f} ms" in text


@pytest.mark.slow
@of_every_architecture
def test_encoders_of_plans_are_timed(architecture):
    config = tiny_architecture_config(architecture)
    student = stock_config(config, resolve_plan("macs=0.5", config, multiple=4))
    random_state = torch.get_rng_state()
    budget = LatencyBudget(5.0, batch_size=2, length=8)
    times = encoder_times({"teacher": config, "student": student}, budget, num_rounds=2, num_warmup=0)
    assert {name: len(rounds) for name, rounds in times.items()} == {"teacher": 2, "student": 2}
    assert min(map(min, times.values())) > 0
    assert torch.equal(torch.get_rng_state(), random_state)
    with pytest.raises(ValueError, match="length=64 is above the model's positions="):
        encoder_times({"teacher": config}, LatencyBudget(5.0, length=64))


# The command


@pytest.fixture
def teacher_folder(tmp_path):
    make_teacher().save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def test_plan_prints_prediction_and_measurement(formula_times, teacher_folder, capsys):
    words = ["plan", "--teacher", teacher_folder, "--student", "latency_ms=0.24,length=16,batch_size=2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "(batch 2, length 16, torch, float32), budget 0.24 ms" in out
    assert "\n  predicted: student 0." in out
    assert "\n  measured:  student " in out
    assert main([*words, "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["latency"]["conditions"] == {"batch_size": 2, "length": 16, "backend": "torch"}
    assert costs["latency"]["predicted_ms"]["student"] <= 0.24
    assert "measured" in costs["latency"]
    assert costs["student"]["plan"] == resolve_plan("latency_ms=0.24", tiny_config()).to_dict()


def test_a_plan_needs_a_student(teacher_folder, capsys):
    assert main(["plan", "--teacher", teacher_folder]) == 2
    assert "the argument --student is required" in capsys.readouterr().err
