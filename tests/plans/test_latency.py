"""Timing in turns, the backends' outputs, and the comparison of models. No time is asserted."""

import json

import pytest
import torch
from rows import each
from tiny_models import make_teacher, randomized, tiny_config
from torch import nn
from transformers import BertModel

from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig, HomoBertForMaskedLM
from homodistil_hf.models.onnx_graphs import export_onnx, missing_packages, onnx_runner
from homodistil_hf.plans import latency as timing
from homodistil_hf.plans.latency import (
    FirstOutput,
    LatencyGrid,
    check_equal,
    compare_latencies,
    figures,
    format_latencies,
    missing_reason,
    model_inputs,
    time_in_turns,
)

needs_onnx = pytest.mark.skipif(bool(missing_packages()), reason="the [onnx] extra is not installed")

UNEVEN = HomoBertConfig(
    vocab_size=96,
    hidden_size=24,
    num_hidden_layers=2,
    max_position_embeddings=32,
    per_layer_config={
        0: {"num_attention_heads": 3, "head_dim": 5, "intermediate_size": 40},
        1: {"num_attention_heads": 1, "head_dim": 8, "intermediate_size": 16},
    },
)
"""Heads × head size is not the hidden size, and layers differ: only the compact form holds it."""


def uneven_student() -> HomoBertForMaskedLM:
    return randomized(HomoBertForMaskedLM(UNEVEN), std=0.2)


# Timing


class Clock:
    """`time.perf_counter` that a pass moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.now = 0.0
        monkeypatch.setattr("homodistil_hf.plans.latency.time.perf_counter", lambda: self.now)


def test_figures_by_hand():
    durations_ms = [8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0]
    names = ("median_ms", "lower_quartile_ms", "upper_quartile_ms")
    assert figures({"a": durations_ms})["latency"] == {"a": dict(zip(names, (5.0, 3.0, 7.0), strict=True))}
    assert figures({"a": [7.0]})["latency"] == {"a": dict.fromkeys(names, 7.0)}


def test_a_speed_up_is_the_ratio_of_medians_with_the_quartiles_of_the_rounds():
    # Rounds: 10/5, 30/10, 20/5, 40/8, 50/10; medians 30 and 8.
    found = figures({"teacher": [10.0, 30, 20, 40, 50], "student": [5.0, 10, 5, 8, 10]})
    assert found["speed_up"] == {"student": {"ratio": 30 / 8, "lower_quartile": 3.0, "upper_quartile": 5.0}}


def test_turns_are_interleaved_and_begin_with_a_pass_that_does_not_count(monkeypatch):
    clock, calls = Clock(monkeypatch), []
    costs = {"a": iter([0.09, 0.01, 0.03, 0.02] * 3), "b": iter([0.08, 0.05, 0.04, 0.07] * 3)}

    def timed(name: str) -> None:
        calls.append(name)
        clock.now += next(costs[name])

    durations_ms = time_in_turns(
        {name: lambda name=name: timed(name) for name in costs}, num_rounds=2, num_warmup=1, num_passes=3
    )
    assert "".join(calls) == "aaaabbbb" * 3
    assert durations_ms == {"a": pytest.approx([20.0, 20.0]), "b": pytest.approx([50.0, 50.0])}


# Models in turns


@pytest.mark.slow
def test_models_are_timed_in_evaluation_mode_and_without_gradients():
    calls = []

    def recorded(name: str) -> BertModel:
        def hook(module: nn.Module, _: tuple, inputs: dict) -> None:
            calls.append((name, tuple(inputs["input_ids"].shape), module.training, torch.is_grad_enabled()))

        model = BertModel(tiny_config()).train()
        model.register_forward_pre_hook(hook, with_kwargs=True)
        return model

    models = {name: recorded(name) for name in ("teacher", "student")}
    (cell,) = compare_latencies(models, small_grid(batch_sizes=(3,), lengths=(8,)))["cells"]
    a_turn = [("teacher", (3, 8), False, False)] * 4 + [("student", (3, 8), False, False)] * 4
    assert calls == a_turn * 4
    assert list(cell["latency"]) == ["teacher", "student"]
    assert all(model.training for model in models.values())


def test_measuring_leaves_every_training_mode_and_the_random_state_alone():
    model = BertModel(tiny_config()).train()
    model.embeddings.eval()  # a frozen part of a model that trains
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    compare_latencies({"model": model}, small_grid(lengths=(8,)))
    assert [module.training for module in model.modules()] == modes
    assert {True, False} <= set(modes)
    assert torch.equal(torch.get_rng_state(), random_state)


# Backends


@pytest.mark.slow
@needs_onnx
@pytest.mark.parametrize(("make", "with_head"), [(make_teacher, False), (uneven_student, True)])
def test_an_onnx_graph_gives_the_same_numbers_at_any_size_and_under_any_mask(make, with_head, tmp_path):
    model = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module = FirstOutput(model if with_head else model.base_model)
    export_onnx(module, model_inputs(model.config, 1, 12), tmp_path / "model.onnx")
    runner = onnx_runner(tmp_path / "model.onnx", num_threads=1)
    for batch_size, length in ((1, 12), (3, 32), (2, 5), (1, 1)):
        input_ids_BT, attention_mask_BT = model_inputs(model.config, batch_size, length)
        attention_mask_BT[0, (length + 1) // 2 :] = 0
        with torch.no_grad():
            expected = module(input_ids_BT, attention_mask_BT)
        output = runner(input_ids_BT, attention_mask_BT)
        assert output.shape == expected.shape
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=2e-5)
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_other_outputs_than_torch_are_refused(error):
    model = make_teacher()
    module = FirstOutput(model.base_model)
    inputs = model_inputs(model.config, 1, 8)
    check_equal(module, lambda *inputs: module(*inputs) * (1 + 1e-6), inputs, "onnxruntime")
    with pytest.raises(ValueError, match=r"backend='onnxruntime' gives other outputs than torch, by .*at most 1e-04"):
        check_equal(module, lambda *inputs: module(*inputs) * (1 + error), inputs, "onnxruntime")


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else name)
    assert missing_reason("torch") is None
    monkeypatch.setattr(torch, "__version__", "2.6.0")
    assert missing_reason("compiled") == (
        "torch 2.6.0 cannot compile BERT of transformers 5; install torch 2.7 or newer"
    )
    assert missing_reason("onnxruntime") == "onnxruntime not installed: pip install 'homodistil-hf[onnx]'"
    with pytest.raises(ValueError, match="onnxruntime not installed; install with pip install "):
        export_onnx(FirstOutput(make_teacher()), model_inputs(tiny_config(), 1, 8), tmp_path / "model.onnx")


# Comparison


def small_grid(**changes: object) -> LatencyGrid:
    values = {"batch_sizes": (1, 2), "lengths": (8, 16), "backends": ("torch",), "num_rounds": 2}
    return LatencyGrid(**values | changes)


@pytest.mark.slow
def test_every_cell_has_every_model_and_speed_ups_over_the_first():
    teacher = make_teacher()
    lines = []
    results = compare_latencies({"teacher": teacher, "student": uneven_student()}, small_grid(), say=lines.append)
    places = [(cell["backend"], cell["batch_size"], cell["length"]) for cell in results["cells"]]
    assert places == [("torch", batch_size, length) for batch_size in (1, 2) for length in (8, 16)]
    medians = [{name: found["median_ms"] for name, found in cell["latency"].items()} for cell in results["cells"]]
    assert lines == [
        f"latency: torch, batch {batch_size}, length {length}: "
        f"teacher {found['teacher']:.2f} ms, student {found['student']:.2f} ms"
        for (_, batch_size, length), found in zip(places, medians, strict=True)
    ]
    for cell in results["cells"]:
        assert list(cell["latency"]) == ["teacher", "student"]
        assert list(cell["speed_up"]) == ["student"]
        medians = {name: latency["median_ms"] for name, latency in cell["latency"].items()}
        assert cell["speed_up"]["student"]["ratio"] == medians["teacher"] / medians["student"]
    assert results["machine"] == machine_facts()
    assert json.loads(json.dumps(results))["settings"]["num_rounds"] == 2


def test_heads_do_not_run():
    model = make_teacher()
    model.cls.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    compare_latencies({"model": model}, small_grid(batch_sizes=(1,), lengths=(8,)))


def test_lengths_beyond_the_positions_are_named_and_skipped():
    models = {"teacher": make_teacher(max_position_embeddings=64), "student": make_teacher()}
    lines = []
    results = compare_latencies(models, small_grid(batch_sizes=(1,), lengths=(33, 32)), say=lines.append)
    assert lines[0].startswith("latency: torch, batch 1, length 33: skipped, ")
    assert lines[1].endswith(" ms")
    skipped, measured = results["cells"]
    assert skipped == {
        "backend": "torch",
        "batch_size": 1,
        "length": 33,
        "skipped": "student has positions=32",
    }
    assert "skipped" not in measured
    assert "skipped: torch, batch 1, length 33: student has positions=32" in format_latencies(results)


def test_where_torch_cannot_compile_the_table_says_so(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler\nfound")

    monkeypatch.setattr(torch, "compile", fail)
    monkeypatch.setattr(timing, "compiling_problem", lambda: None)
    grid = small_grid(batch_sizes=(1,), lengths=(8,), backends=("compiled", "torch"))
    results = compare_latencies({"model": make_teacher()}, grid)
    compiled, eager = results["cells"]
    assert compiled["skipped"] == "torch.compile fails here: InvalidCxxCompiler: No working C++ compiler found"
    assert "latency" in eager
    assert "compiled, batch 1, length 8: torch.compile fails here" in format_latencies(results)


def test_a_failure_of_another_backend_is_no_gap_in_the_table(monkeypatch):
    model = make_teacher()
    model.base_model.encoder.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken layer")))
    with pytest.raises(RuntimeError, match="broken layer"):
        compare_latencies({"model": model}, small_grid())


@each(
    ("changes", "message"),
    [
        ({"batch_sizes": ()}, r"batch_sizes=\[\] needs numbers, each at least 1"),
        ({"lengths": (128, 1)}, r"lengths=\[128, 1\] needs numbers, each at least 2"),
        ({"backends": ("torch", "onnx")}, "backend='onnx' is unknown; nearest valid: 'onnxruntime'"),
        ({"num_rounds": 0}, "num_rounds=0 is too small; nearest valid: 1"),
    ],
)
def test_an_impossible_grid_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_grid(**changes)
