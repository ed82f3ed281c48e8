"""Latency tables and the plans made from them. Tables are made by formula; nothing here depends on a measured time."""

import itertools
import json
import re

import numpy as np
import pytest
import torch
from rows import each
from tiny_models import make_teacher, tiny_config
from transformers import BertConfig

from homodistil_hf import resolve_plan
from homodistil_hf.cli import main
from homodistil_hf.files.caches import cache_folder, cache_sizes
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig, HomoBertModel
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.plans.budgets import is_latency_budget, plan_for_budget, plan_for_latency
from homodistil_hf.plans.latency import budget as planning
from homodistil_hf.plans.latency.budget import (
    AXES,
    AttentionBlock,
    Conditions,
    FeedForwardBlock,
    Grid,
    LatencyBudget,
    LatencyTable,
    grid_below,
    latency_table,
    measure_plan,
    measure_table,
    plan_within,
)
from homodistil_hf.plans.latency.timing import model_inputs
from homodistil_hf.runs.plan import format_planned_latency

BASE = widths_of(BertConfig())
FORMULAS = {
    "embeddings": lambda hidden_size: 0.01 + 1e-4 * hidden_size,
    "attention": lambda hidden_size, heads, head_dim: 0.05 + 0.01 * heads + 5e-6 * hidden_size * heads * head_dim,
    "ffn": lambda hidden_size, intermediate_size: 0.02 + 2.5e-6 * hidden_size * intermediate_size,
}
"""What parts cost; linear in each width, so that interpolation between the widths of a grid is exact."""


def table_by_formula(teacher: WidthPlan) -> LatencyTable:
    grid = grid_below(teacher)
    values = {}
    for part, formula in FORMULAS.items():
        axes = [grid[name] for name in AXES[part]]
        points = itertools.product(*axes)
        values[part] = np.array([formula(*point) for point in points]).reshape([len(axis) for axis in axes])
    return LatencyTable(grid, values)


def formula_ms(plan: WidthPlan) -> float:
    hidden_size = plan.hidden_size
    return FORMULAS["embeddings"](hidden_size) + sum(
        FORMULAS["attention"](hidden_size, layer.num_attention_heads, layer.head_dim)
        + FORMULAS["ffn"](hidden_size, layer.intermediate_size)
        for layer in plan.layers
    )


@pytest.fixture
def formula_table(monkeypatch, tmp_path):
    """`latency_table` by formula; yields the list of its calls."""
    calls = []

    def table(config: BertConfig, conditions: Conditions) -> LatencyTable:
        calls.append(conditions)
        return table_by_formula(widths_of(config))

    monkeypatch.setattr(planning, "latency_table", table)
    return calls


# Tables


@pytest.mark.parametrize(
    "plan",
    [
        BASE,
        WidthPlan.uniform(224, 12, LayerWidths(8, 28, 896)),
        WidthPlan(384, (LayerWidths(12, 32, 1536), LayerWidths(7, 20, 400))),
    ],
)
def test_a_plan_takes_the_sum_of_its_parts_interpolated(plan):
    assert table_by_formula(BASE).latency_ms(plan) == pytest.approx(formula_ms(plan), rel=1e-12)


def test_outside_the_grid_the_table_is_flat():
    table = table_by_formula(BASE)
    below, lowest = (WidthPlan.uniform(h, 1, LayerWidths(n, d, f)) for h, n, d, f in ((8, 1, 1, 8), (96, 6, 16, 384)))
    above = WidthPlan.uniform(1024, 12, LayerWidths(16, 64, 4096))
    assert table.latency_ms(below) == table.latency_ms(lowest)
    assert table.latency_ms(above) == table.latency_ms(BASE)


def test_a_table_survives_json():
    table = table_by_formula(BASE)
    again = LatencyTable.from_dict(json.loads(json.dumps(table.to_dict())))
    assert again.grid == table.grid
    assert all(np.array_equal(again.milliseconds[part], table.milliseconds[part]) for part in AXES)


# Measuring


TINY_GRID = {"hidden_size": [8, 16], "num_attention_heads": [1, 2], "head_dim": [4, 8], "intermediate_size": [16, 32]}


def fake_turns(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs every pass once, and says that pass i took i + 1 milliseconds."""
    names: list[str] = []

    def turns(passes, **_):
        names.extend(passes)
        for forward in passes.values():
            forward()
        return {name: [index + 1.0] for index, name in enumerate(passes)}

    monkeypatch.setattr(planning, "time_in_turns", turns)
    return names


def test_every_point_of_the_grid_is_measured_and_put_in_its_place(monkeypatch):
    names = fake_turns(monkeypatch)
    random_state = torch.get_rng_state()
    table = measure_table(tiny_config(), Conditions(length=8), TINY_GRID)
    assert names[0] == "('embeddings', 8)"
    assert names[3] == "('attention', 8, 1, 8)"
    assert names[-1] == "('ffn', 16, 32)"
    assert len(names) == 2 + 8 + 4
    # A block takes half of its pass: two stand in a row, as many as the teacher has layers.
    assert table.milliseconds["embeddings"].tolist() == [1, 2]
    assert table.milliseconds["attention"][0, 0, 1] == 4 / 2
    assert table.milliseconds["ffn"].tolist() == [[11 / 2, 12 / 2], [13 / 2, 14 / 2]]
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_parts_in_a_row_are_the_encoder():
    config = HomoBertConfig(**tiny_config(num_hidden_layers=1).to_diff_dict(), head_dim=5, attn_implementation="sdpa")
    model = HomoBertModel(config, add_pooling_layer=False).eval()
    attention, feed_forward = AttentionBlock(config).eval(), FeedForwardBlock(config).eval()
    layer = model.encoder.layer[0]
    attention.block.load_state_dict(layer.attention.state_dict())
    feed_forward.block_in.load_state_dict(layer.intermediate.state_dict())
    feed_forward.block_out.load_state_dict(layer.output.state_dict())
    input_ids_BT, attention_mask_BT = model_inputs(config, 2, 8)
    with torch.no_grad():
        in_parts = feed_forward(attention(model.embeddings(input_ids_BT)))
        assert torch.equal(in_parts, model(input_ids_BT, attention_mask_BT).last_hidden_state)


def test_a_table_is_measured_once_for_its_conditions_and_threads(monkeypatch, tmp_path):
    monkeypatch.setenv("HOMODISTIL_CACHE", str(tmp_path))
    measured = []

    def measure(config: BertConfig, conditions: Conditions, grid: Grid) -> LatencyTable:
        measured.append(conditions)
        return table_by_formula(widths_of(config))

    monkeypatch.setattr(planning, "measure_table", measure)
    config = tiny_config()
    first, again = (latency_table(config, Conditions(length=16)) for _ in range(2))
    assert first.to_dict() == again.to_dict()
    assert len(measured) == 1
    latency_table(config, Conditions(length=8))
    latency_table(tiny_config(hidden_size=16), Conditions(length=16))
    monkeypatch.setattr(planning, "machine_facts", lambda: {"num_threads": 99})
    latency_table(config, Conditions(length=16))
    assert len(measured) == 4
    assert len(list((cache_folder() / "latency").iterdir())) == 4
    assert cache_sizes()["latency"] > 0
    with pytest.raises(ValueError, match="length=64 is above the model's positions=32"):
        latency_table(config, Conditions(length=64))


@each(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is too small; nearest valid: 1"),
        ({"length": 1}, "length=1 is too small; nearest valid: 2"),
        ({"backend": "tensorrt"}, "backend='tensorrt' is unknown; nearest valid: "),
        ({"backend": "compiled"}, "backend='compiled' has no latency table; nearest valid: 'torch'"),
    ],
)
def test_impossible_conditions_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Conditions(**values)


# The search


@each("limit_ms", [5.0, 12.0, 40.0, 100.0])
def test_the_largest_plan_within_the_budget_is_found(limit_ms):
    plan = plan_for_latency(limit_ms, BertConfig(), predict=formula_ms)
    assert 0.9 * limit_ms < formula_ms(plan) <= limit_ms
    assert plan.padded() == plan
    assert (plan.hidden_size % 8, plan.layers[0].intermediate_size % 8) == (0, 0)
    others = [plan_for_budget(f"macs={percent / 100}", BertConfig()) for percent in range(2, 100, 3)]
    sizes = [encoder_macs(other) for other in others if formula_ms(other) <= limit_ms]
    assert encoder_macs(plan) >= 0.95 * max(sizes)  # what is less like the teacher must be larger


def test_more_time_never_gives_a_smaller_plan():
    sizes = [encoder_macs(plan_for_latency(ms, BertConfig(), predict=formula_ms)) for ms in range(5, 100, 5)]
    assert sizes == sorted(sizes)


def test_a_predictor_that_is_not_monotonic_never_breaks_the_budget():
    def jagged(plan: WidthPlan) -> float:
        return formula_ms(plan) * (1 + 0.2 * ((plan.layers[0].intermediate_size // 8) % 3))

    assert jagged(plan_for_latency(20.0, BertConfig(), predict=jagged)) <= 20.0


@pytest.mark.parametrize("limit_ms", [0.5, 500.0])
def test_a_budget_out_of_reach_names_the_range_and_its_ends_can_be_met(limit_ms):
    with pytest.raises(
        ValueError, match="is out of this teacher's reach on this machine; nearest valid: from"
    ) as error:
        plan_for_latency(limit_ms, BertConfig(), predict=formula_ms)
    ends = [float(number) for number in re.findall("'latency_ms=([^']*)'", str(error.value))[1:]]
    lowest, highest = (plan_for_latency(end, BertConfig(), predict=formula_ms) for end in ends)
    assert formula_ms(lowest) <= ends[0]
    assert formula_ms(highest) <= ends[1] <= formula_ms(BASE)


# The budget as a student


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("latency_ms=5", LatencyBudget(5.0)),
        (" latency_ms = 2.5 , length = 64 ", LatencyBudget(2.5, Conditions(length=64))),
        ("latency_ms=1e1,backend=torch,batch_size=32", LatencyBudget(10.0, Conditions(batch_size=32))),
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
        ("latency_ms=5,latency_ms=6", "says something twice; expected for example"),
        ("latency_ms=5,layers=4", "unknown condition 'layers'; fewer layers go with a share of the MACs, such as"),
        ("latency_ms=5,lenght=64", "has the unknown condition 'lenght'; nearest valid: 'length'"),
        ("latency_ms=5,length=many", "is no latency budget; expected for example"),
    ],
)
def test_what_is_no_budget_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        LatencyBudget.parse(text)


def test_a_latency_budget_is_a_student_like_any_other(formula_table):
    plan = resolve_plan("latency_ms=20,length=64", BertConfig())
    assert plan == plan_for_latency(20.0, BertConfig(), predict=formula_ms)
    assert formula_table == [Conditions(length=64)]


def test_a_default_length_is_lowered_to_the_positions(formula_table):
    resolve_plan("latency_ms=0.24", tiny_config())
    resolve_plan("latency_ms=20", BertConfig())
    assert formula_table == [Conditions(length=32), Conditions(length=128)]


@pytest.mark.slow
def test_a_chosen_plan_is_timed_beside_its_teacher(formula_table):
    config = tiny_config()
    budget = LatencyBudget(0.24, Conditions(length=16))
    found = plan_within(budget, config)
    assert found.latency_ms == pytest.approx(formula_ms(found.plan))
    assert found.teacher_latency_ms == pytest.approx(formula_ms(widths_of(config)))
    random_state = torch.get_rng_state()
    measured = measure_plan(found.plan, config, budget.conditions)
    assert list(measured["latency"]) == ["teacher", "student"]
    assert measured["speed_up"]["ratio"] == pytest.approx(
        measured["latency"]["teacher"]["median_ms"] / measured["latency"]["student"]["median_ms"]
    )
    assert torch.equal(torch.get_rng_state(), random_state)
    text = format_planned_latency(found.facts(budget) | {"measured": measured})
    assert "(batch 1, length 16, torch, float32), budget 0.24 ms" in text
    assert f"predicted: student {found.latency_ms:.2f} ms, teacher {found.teacher_latency_ms:.2f} ms" in text
    assert f"measured:  student {measured['latency']['student']['median_ms']:.2f} ms" in text


# The command


@pytest.fixture
def teacher_folder(tmp_path):
    make_teacher().save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


@pytest.mark.slow
def test_plan_prints_prediction_and_measurement(formula_table, teacher_folder, capsys):
    words = ["plan", "--teacher", teacher_folder, "--latency_ms", "0.24", "--length", "16", "--batch_size", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "(batch 2, length 16, torch, float32), budget 0.24 ms" in out
    assert "\n  predicted: student 0." in out
    assert "\n  measured:  student " in out
    assert main([*words, "--json", "--no_measurement"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["latency"]["conditions"] == {"batch_size": 2, "length": 16, "backend": "torch"}
    assert costs["latency"]["predicted_ms"]["student"] <= 0.24
    assert "measured" not in costs["latency"]
    assert costs["student"]["plan"] == resolve_plan("latency_ms=0.24", tiny_config()).to_dict()
    assert main(["plan", "--teacher", teacher_folder, "--student", "latency_ms=0.24,length=16", "--json"]) == 0
    assert "measured" in json.loads(capsys.readouterr().out)["latency"]


def test_flags_of_a_latency_need_one(teacher_folder, capsys):
    assert main(["plan", "--teacher", teacher_folder, "--student", "macs=0.5", "--length", "16"]) == 2
    assert "--length says how a latency is measured; give --latency_ms with it" in capsys.readouterr().err
    assert main(["plan", "--teacher", teacher_folder]) == 2
    assert "one of the arguments --student --latency_ms is required" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_compares_folders(teacher_folder, tmp_path, capsys):
    words = ["latency", teacher_folder, "--teacher", teacher_folder + "/.", "--lengths", "8", "64"]
    words += ["--batch_sizes", "2", "--backends", "torch", "--rounds", "2", "--output", str(tmp_path / "out.json")]
    assert main(words) == 0
    assert f"torch        2       8  {teacher_folder}/." in capsys.readouterr().out
    results = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert results["reference"] == teacher_folder + "/."
    assert results["settings"]["num_rounds"] == 2
    assert [cell.get("skipped") for cell in results["cells"]] == [
        None,
        f"{teacher_folder}/. has positions=32",
    ]
