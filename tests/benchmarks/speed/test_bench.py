"""Whole benchmarks with tiny models: what they report, and how a schedule is added up."""

import json

import pytest
import torch
from bench_shapes import TINY

from benchmarks.speed.bench import main
from benchmarks.speed.growth import loss_bytes
from benchmarks.speed.measure import run_bench
from benchmarks.speed.profiles import PARTS
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench
from benchmarks.speed.whole_run import (
    BASELINES,
    FULL_WIDTH,
    LOOPS,
    ONE_SHOT,
    PLAIN,
    START,
    STRONG,
    Stretch,
    Way,
    way_of,
    whole_schedule,
)
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan


@pytest.fixture(scope="module")
def results():
    return run_bench(BenchSettings(**TINY, dtype="float32", attention_weight=1.0))


@pytest.mark.slow
def test_all_variants_start_with_the_same_losses(results):
    ours = results["losses"][START]
    for loop in LOOPS:
        losses = dict(results["losses"][loop])
        # this KL is a difference of logarithms near 6, which float32 rounds; ours are taken from softmax
        assert losses.pop("loss_kl") == pytest.approx(ours["loss_kl"], abs=3e-7)
        assert losses == pytest.approx({name: ours[name] for name in losses}, rel=2e-5)
    assert ours["loss_attention"] > 0


def test_every_variant_is_measured(results):
    assert set(results["variants"]) == {*BASELINES, *way_of(BenchSettings(**TINY)).places}
    for facts in results["variants"].values():
        assert len(facts["step_seconds"]["values"]) == 2
        assert facts["tokens_per_second"]["median"] > 0
        assert facts["useful_flops_fraction"]["median"] > 0
        assert facts["peak_memory_bytes"] > 0
        assert tuple(facts["part_seconds"]) == PARTS
    for loop in LOOPS:
        assert results["variants"][loop]["speedups"][loop]["values"] == [1.0, 1.0]


def test_places_lead_from_the_teachers_widths_to_the_target(results):
    own = BenchSettings(**TINY)
    *_, last = (facts for name, facts in results["variants"].items() if name not in BASELINES)
    assert last["plan"] == own.target.to_dict()
    assert results["variants"][ONE_SHOT]["plan"] == own.target.to_dict()
    plans = [results["variants"][name]["plan"] for name in (START, *LOOPS)]
    assert plans == 3 * [own.full.to_dict()]
    assert last["encoder_macs"] == encoder_macs(own.target, own.length)


def test_results_are_json_and_a_table(results):
    text = format_bench(json.loads(json.dumps(results)))
    assert all(name in text for name in results["variants"])
    assert "loss_attention" in text
    assert f"Scores and {results['schedule']['pruning']['num_choices']} choices of masks, with the slicing" in text


def test_a_schedule_is_added_up_stretch_by_stretch():
    """Hand-made: 2 steps of 8 seconds, 4 halfway to the next place, 4 of 2 seconds at the end."""
    full, half, end = (WidthPlan.uniform(32, 2, LayerWidths(4, 8, size)) for size in (64, 40, 16))
    own = BenchSettings(**TINY | {"max_steps": 10, "rounds": 1})
    way = Way(
        [Stretch(2, full), Stretch(4, half), Stretch(4, end)], {START: Stretch(2, full), "narrow": Stretch(4, end)}
    )
    share = (encoder_macs(half, 16) - encoder_macs(end, 16)) / (encoder_macs(full, 16) - encoder_macs(end, 16))
    seconds = {START: [8.0], "narrow": [2.0], PLAIN: [20.0], ONE_SHOT: [2.0]}
    pruning = {START: {"scores_seconds": 0.5, "choice_seconds": 1.5}, "narrow": {"scores_seconds": 0.25}}
    pruning[ONE_SHOT] = {"start_seconds": 7.0}
    schedule = whole_schedule(own, way, seconds, pruning)
    steps, scores = 2 * 8.0 + 4 * (2 + 6 * share) + 4 * 2.0, 2 * 0.5 + 4 * (0.25 + 0.25 * share) + 4 * 0.25
    assert schedule["pruning"] == {
        "fraction": pytest.approx((scores + 2 * 1.5) / (steps + 2 * 1.5)),
        "scores_seconds": pytest.approx(scores),
        "num_choices": 2,
        "choices_seconds": 3.0,
    }
    assert schedule["ours"]["seconds"]["median"] == pytest.approx(steps + 3.0)
    assert schedule[FULL_WIDTH]["seconds"]["median"] == 80.0
    assert schedule[PLAIN]["seconds"]["median"] == 200.0
    assert schedule[ONE_SHOT]["seconds"]["median"] == 7.0 + 10 * 2.0
    assert schedule[ONE_SHOT]["speedups"]["ours"]["median"] == pytest.approx((steps + 3.0) / 27.0)
    assert schedule["ours"]["speedups"][PLAIN]["median"] == pytest.approx(200 / (steps + 3.0))
    assert schedule["ours"]["tokens_per_second"]["median"] == pytest.approx(10 * 64 / (steps + 3.0))


@pytest.mark.slow
def test_the_command_prints_writes_and_draws(tmp_path, capsys):
    flags = [f"--{name}={value}" for name, value in (TINY | {"points": 2, "rounds": 1}).items()]
    files = [f"--output={tmp_path / 'speed.json'}", f"--chart={tmp_path / 'speed.png'}"]
    assert main([*flags, *files, "--no_with_baselines"]) == 0
    printed = capsys.readouterr().out
    assert "× never narrower" in printed
    assert STRONG not in json.loads((tmp_path / "speed.json").read_text())["variants"]
    assert (tmp_path / "speed.png").is_file()


def test_memory_of_the_loss_is_measured_where_logits_would_be(monkeypatch):
    monkeypatch.setattr("homodistil_hf.distillation.vocabulary_loss.LOGITS_BYTES", 1 << 16)
    sizes = {"vocab_size": 512, "hidden_size": 8, "dtype": torch.float32}
    few, many = (loss_bytes(num_predictions=n, device=torch.device("cpu"), **sizes) for n in (256, 1024))
    assert many - few < 768 * 512 * 4 / 2
