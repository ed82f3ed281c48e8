"""Whole benchmarks with tiny models: what they report, and how a schedule is added up."""

import json

import pytest
from bench_shapes import SHAPE

from benchmarks.speed.bench import main
from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.whole_run import LOOPS, START, STRONG

TINY = {
    "shape": json.dumps(SHAPE),
    "batch_size": 4,
    "length": 16,
    "rounds": 2,
    "warmup_rounds": 1,
    "points": 3,
    "max_steps": 100,
    "multiple": 1,
}


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


@pytest.mark.slow
def test_the_command_prints_writes_and_draws(tmp_path, capsys):
    flags = [f"--{name}={value}" for name, value in (TINY | {"points": 2, "rounds": 1}).items()]
    files = [f"--output={tmp_path / 'speed.json'}", f"--chart={tmp_path / 'speed.png'}"]
    assert main([*flags, *files, "--no_with_baselines"]) == 0
    printed = capsys.readouterr().out
    assert "× never narrower" in printed
    assert STRONG not in json.loads((tmp_path / "speed.json").read_text())["variants"]
    assert (tmp_path / "speed.png").is_file()
