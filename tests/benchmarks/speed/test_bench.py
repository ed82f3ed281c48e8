"""Whole benchmarks with tiny models: what they report, and how a schedule is added up."""

import json

import pytest
import torch
from bench_shapes import TINY

from benchmarks.speed import gpu
from benchmarks.speed.bench import CASES, main
from benchmarks.speed.growth import format_growth, loss_bytes, run_growth
from benchmarks.speed.measure import run_bench
from benchmarks.speed.profiles import PARTS
from benchmarks.speed.settings import SHAPES, BenchSettings
from benchmarks.speed.tables import draw_parts, format_bench
from benchmarks.speed.whole_run import MASKED, REFERENCE, START, Stretch, Way, summary, way_of, whole_schedule
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan


@pytest.fixture(scope="module")
def results():
    return run_bench(BenchSettings(**TINY, dtype="float32", attention_weight=1.0))


@pytest.mark.slow
def test_all_arms_start_with_the_same_losses(results):
    assert results["losses"][REFERENCE] == pytest.approx(results["losses"][START], rel=2e-5)
    assert results["losses"][START]["loss_attention"] > 0


def test_every_arm_is_measured(results):
    assert set(results["arms"]) == {START, MASKED, REFERENCE, *way_of(BenchSettings(**TINY)).points}
    for facts in results["arms"].values():
        assert len(facts["step_seconds"]["values"]) == 2
        assert facts["tokens_per_second"]["median"] > 0
        assert facts["useful_flops_fraction"]["median"] > 0
        assert facts["peak_memory_bytes"] > 0
        assert tuple(facts["part_seconds"]) == PARTS
    assert results["arms"][REFERENCE]["speedup"]["values"] == [1.0, 1.0]


def test_the_last_place_has_the_target_and_masks_are_counted(results):
    target = BenchSettings(**TINY).target.to_dict()
    *_, last = (facts for name, facts in results["arms"].items() if name not in (MASKED, REFERENCE))
    assert last["present"] == last["kept"] == target
    assert results["arms"][MASKED]["kept"] == target
    assert results["arms"][MASKED]["encoder_macs"] == results["arms"][START]["encoder_macs"]


def test_results_are_json_and_a_table(results):
    text = format_bench(json.loads(json.dumps(results)))
    assert all(name in text for name in results["arms"])
    assert "loss_attention" in text
    assert f"{results['schedule']['pruning']['num_compactions']} compactions together take" in text


def test_parts_are_drawn(results, tmp_path):
    draw_parts(results, tmp_path / "parts.png")
    assert (tmp_path / "parts.png").read_bytes().startswith(b"\x89PNG")


def test_a_schedule_is_added_up_stretch_by_stretch():
    """Hand-made: 2 steps without masks, 4 masked, 4 at the end; steps of 8, 6 and 2 seconds, masked ones 9 to 7."""
    full, half, end = (WidthPlan.uniform(32, 2, LayerWidths(4, 8, size)) for size in (64, 48, 16))
    own = BenchSettings(**TINY | {"max_steps": 10, "rounds": 1})
    stretches = [Stretch(2, full, full), Stretch(4, full, half), Stretch(4, end, end)]
    way = Way(stretches, {"wide": Stretch(6, full, half), "narrow": Stretch(4, end, end)})
    seconds = {START: [8.0], "wide": [6.0], "narrow": [2.0], MASKED: [3.0], REFERENCE: [20.0]}
    pruning = {
        "wide": {"scores_and_masks_seconds": 0.5, "choice_seconds": 0.5, "compaction_seconds": 5.0},
        "narrow": {"scores_and_masks_seconds": 0.25, "choice_seconds": 0.25},
    }
    schedule = whole_schedule(own, way, seconds, pruning)
    assert schedule["pruning"] == {
        "fraction": pytest.approx((6 * 0.5 + 4 * 0.25 + 1.0 + 5.0) / 50),
        "scores_and_masks_seconds": 4.0,
        "num_choices": 2,
        "choices_seconds": 1.0,
        "num_compactions": 1,
        "compactions_seconds": 5.0,
    }
    assert schedule["ours"]["seconds"]["median"] == pytest.approx(6 * 6.0 + 4 * 2.0 + 6.0)
    assert schedule["ours, never compacted"]["seconds"]["median"] == pytest.approx(2 * 8.0 + 4 * 6.0 + 4 * 3.0)
    assert schedule[REFERENCE]["seconds"]["median"] == 200.0
    assert schedule["ours"]["speedups"][REFERENCE]["median"] == pytest.approx(200 / 50)
    assert schedule["ours"]["tokens_per_second"]["median"] == pytest.approx(10 * 64 / 50)


def test_places_are_named_by_their_macs():
    own = BenchSettings(**TINY)
    names = list(way_of(own).points)
    assert names[0] == "ours, 100% of MACs"
    share = encoder_macs(own.target, 16) / encoder_macs(own.full, 16)
    assert names[-1] == f"ours, {share:.0%} of MACs"


def test_quartiles():
    found = summary([4.0, 1.0, 2.0, 3.0, 100.0])
    assert (found["q1"], found["median"], found["q3"]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": "bert-bas"}, "shape='bert-bas' is unknown; nearest valid: bert-base"),
        ({"dtype": "float16"}, "dtype='float16' is unknown; nearest valid: float32 or bfloat16"),
        ({"device": "tpu"}, "device='tpu' is unknown; nearest valid: cpu or cuda"),
        ({"rounds": 0}, "rounds=0 is too small; nearest valid: 1"),
        ({"points": 1}, "points=1 is too small; nearest valid: 2"),
        ({"length": 64}, "length=64 is above the shape's max_position_embeddings=32"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        BenchSettings(**TINY | changes)


def test_named_shapes_have_their_widths():
    assert BenchSettings(shape="bert-base", student="homobert-tiny").full.to_dict() == {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "head_dim": 64,
        "intermediate_size": 3072,
    }
    assert set(SHAPES) == {"bert-base", "teacher6x384"}


@pytest.mark.parametrize("case", CASES)
def test_every_recorded_case_is_possible(case):
    assert BenchSettings(**CASES[case]).target.hidden_size < BenchSettings(**CASES[case]).full.hidden_size


@pytest.mark.slow
def test_the_command_prints_writes_and_draws(tmp_path, capsys):
    flags = [f"--{name}={value}" for name, value in (TINY | {"points": 2, "rounds": 1}).items()]
    files = [f"--output={tmp_path / 'speed.json'}", f"--chart={tmp_path / 'speed.png'}"]
    assert main([*flags, *files, "--no_with_reference"]) == 0
    printed = capsys.readouterr().out
    assert "× never compacted" in printed
    assert REFERENCE not in json.loads((tmp_path / "speed.json").read_text())["arms"]
    assert (tmp_path / "speed.png").is_file()


def test_growth_is_measured_and_the_loss_stays_small():
    found = run_growth(BenchSettings(**TINY | {"rounds": 1}), batch_sizes=(2, 4), vocab_sizes=(50, 100))
    assert list(found["batch_sizes"]) == ["2", "4"]
    assert found["batch_sizes"]["2"]["relative_speed"]["values"] == [1.0]
    assert [entry["vocab_size"] for entry in found["vocab_sizes"]] == [50, 50, 100, 100]
    assert "peak of the loss" in format_growth(found)


def test_memory_of_the_loss_is_measured_where_logits_would_be(monkeypatch):
    monkeypatch.setattr("homodistil_hf.distillation.vocabulary_loss.LOGITS_BYTES", 1 << 16)
    sizes = {"vocab_size": 512, "hidden_size": 8, "dtype": torch.float32}
    few, many = (loss_bytes(num_predictions=n, device=torch.device("cpu"), **sizes) for n in (256, 1024))
    assert many - few < 768 * 512 * 4 / 2


@pytest.mark.slow
def test_the_gpu_script_runs_on_a_cpu_when_told_to(tmp_path, capsys):
    flags = {name: TINY[name] for name in ("shape", "length", "max_steps")} | {"student": "macs=0.25", "points": 2}
    flags |= {"sequences_a_step": 4, "rounds": 1, "warmup_rounds": 1, "results": tmp_path / "gpu.json"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert gpu.main([*words, "--device", "cpu", "--batch_sizes", "2", "4", "--compiled", "false"]) == 0
    recorded = json.loads((tmp_path / "gpu.json").read_text())
    assert list(recorded["batch_sizes"]) == ["2", "4"]
    assert recorded["batch_sizes"]["2"]["settings"]["accumulation_steps"] == 2
    assert "whole recipe, 100 steps of 4 × 16 tokens" in capsys.readouterr().out


def test_the_gpu_script_says_that_there_is_no_gpu(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 0
    assert "no CUDA device: nothing is measured" in capsys.readouterr().out


def test_the_gpu_script_goes_on_after_a_batch_that_does_not_fit(monkeypatch, tmp_path, capsys):
    def fails(settings):
        raise torch.OutOfMemoryError("tried to allocate 9 GiB")

    monkeypatch.setattr(gpu, "run_bench", fails)
    words = ["--device", "cpu", "--batch_sizes", "1024", "2048", "--results", str(tmp_path / "gpu.json")]
    assert gpu.main(words) == 0
    recorded = json.loads((tmp_path / "gpu.json").read_text())["batch_sizes"]
    assert recorded == {size: {"out_of_memory": "tried to allocate 9 GiB"} for size in ("1024", "2048")}
    assert capsys.readouterr().out.count("does not fit") == 2
