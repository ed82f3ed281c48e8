"""Two ranks make the run that one process makes, resume exactly, and stop when they disagree."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_worker import SHARED, shared_run
from runs import TIMINGS

# One launch, three processes on as few as two busy cores.
pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]
WORKER = Path(__file__).with_name("distributed_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two ranks have left their results."""
    folder = tmp_path_factory.mktemp("ranks")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    finished = subprocess.run(
        [*launcher, str(WORKER), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-5000:]
    return folder


def results(folder: Path, name: str) -> list[Any]:
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", SHARED)
def test_two_ranks_equal_one_process(folder, tmp_path, name):
    ranks = results(folder, name)
    one = shared_run(tmp_path, name, world_size=1)
    for found in ranks:
        assert found["choices"] == one["choices"]
        assert found["num_compactions"] == one["num_compactions"] > 0
        assert found["tensors"].keys() == one["tensors"].keys()
        for tensor_name, tensor in one["tensors"].items():
            torch.testing.assert_close(found["tensors"][tensor_name], tensor, rtol=1e-3, atol=1e-4, msg=tensor_name)
        for entry, expected in zip(found["logs"], one["logs"], strict=True):
            assert entry == pytest.approx(expected, rel=1e-4, abs=1e-5)
        for metrics, expected in zip(found["evaluations"], one["evaluations"], strict=True):
            assert measured(metrics) == pytest.approx(measured(expected), rel=1e-4, abs=1e-6)


def measured(metrics: dict[str, float]) -> dict[str, float]:
    names = [name for name in metrics if not name.endswith(TIMINGS)]
    assert {"eval_loss", "eval_kl", "eval_mlm_accuracy"} <= set(names)
    return {name: metrics[name] for name in names}


@pytest.mark.parametrize("name", SHARED)
def test_ranks_stay_equal_to_the_last_bit(folder, name):
    one, other = (result["tensors"] for result in results(folder, name))
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def test_resumed_ranks_equal_uninterrupted_ones(folder):
    for result in results(folder, "resume"):
        assert result["differences"] == [[], []]
        assert result["logs"] == [True, True]
        assert result["num_logs"] == 3


def test_every_rank_loads_the_best_model(folder):
    for result in results(folder, "best model"):
        assert result["best"] == result["expected"]
        assert result["kl"][0] == pytest.approx(result["kl"][1], rel=1e-6)
        assert result["exported"]


def test_a_loss_that_is_bad_on_one_rank_is_skipped_on_all(folder):
    one, other = results(folder, "one bad rank")
    assert one["num_bad_steps"] == other["num_bad_steps"] == 1
    assert one["finite"]
    assert torch.equal(one["weight"], other["weight"])


def test_ranks_that_choose_other_masks_stop(folder):
    for result in results(folder, "other masks"):
        assert result["error"].startswith("masks differ across ranks after step 1")
