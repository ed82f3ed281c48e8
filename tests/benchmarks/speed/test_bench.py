"""Whole benchmarks with tiny models: what they report, and how a schedule is added up."""

import copy
import json

import pytest
from bench_shapes import SHAPE

from benchmarks.speed.bench import main
from benchmarks.speed.interleaved import on_one_memory_node
from benchmarks.speed.measure import run_bench
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.tables import format_bench
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
    return run_bench(BenchSettings(**TINY, dtype="float32", attention_weight=1.0, instances=2))


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
def test_a_rounds_time_is_the_mean_over_the_trainers_of_a_variant(results):
    assert {START, STRONG} < results["variants"].keys()
    assert not any("#" in name for name in results["variants"])
    for variant in results["variants"].values():
        assert len(variant["instance_seconds"]) == 2
        assert len(variant["step_seconds"]["values"]) == TINY["rounds"] == 2
        # of two rounds, medians are means
        mean = sum(variant["instance_seconds"]) / 2
        assert variant["step_seconds"]["median"] == pytest.approx(mean)
        assert variant["device_seconds"] is None
    assert "pinned_to_cores" not in results["machine"]


@pytest.mark.slow
def test_the_table_has_what_stands_beside_the_clock(results):
    found = copy.deepcopy(results)
    found["variants"][STRONG] |= {"instance_seconds": [2.0, 2.5], "device_seconds": 0.9}
    found["variants"][STRONG]["step_seconds"]["median"] = 2.25
    (row,) = (line for line in format_bench(found).splitlines() if line.startswith(f"| {STRONG}") and "MB" in line)
    assert [cell.strip() for cell in row.split("|")][-4:-2] == ["25%", "40%"]


def test_a_process_stays_on_the_memory_node_with_the_most_of_its_cores(tmp_path, monkeypatch):
    for node, cores in {"node0": "0-3,8", "node1": "4-7,9-11"}.items():
        (tmp_path / node).mkdir()
        (tmp_path / node / "cpulist").write_text(f"{cores}\n")
    allowed = [{0, 1, 2, 3, 8, 9}]
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: allowed[-1], raising=False)
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, cores: allowed.append(cores), raising=False)
    with on_one_memory_node(tmp_path) as cores:
        assert cores == [0, 1, 2, 3, 8]
        assert allowed[-1] == {0, 1, 2, 3, 8}
    assert allowed[-1] == allowed[0]
    with on_one_memory_node(tmp_path / "missing") as cores:
        assert cores == []
    allowed.append({64})
    with on_one_memory_node(tmp_path) as cores:  # on no node that is known
        assert cores == []
    assert allowed[-1] == {64}


@pytest.mark.slow
def test_the_command_prints_writes_and_draws(tmp_path, capsys):
    flags = [f"--{name}={value}" for name, value in (TINY | {"points": 2, "rounds": 1}).items()]
    files = [f"--output={tmp_path / 'speed.json'}", f"--chart={tmp_path / 'speed.png'}"]
    assert main([*flags, *files, "--no_with_baselines"]) == 0
    printed = capsys.readouterr().out
    assert "× never narrower" in printed
    assert STRONG not in json.loads((tmp_path / "speed.json").read_text())["variants"]
    assert (tmp_path / "speed.png").is_file()
