"""The usual launchers: torchrun on two nodes, and accelerate launch; the command line's whole run under both."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from distributed_worker import free_port
from safetensors.torch import load_file
from tiny_files import write_config

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]
TORCHRUN = "torch.distributed.run"
ACCELERATE = "accelerate.commands.accelerate_cli"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teacher, text and config of a run."""
    folder = tmp_path_factory.mktemp("launched")
    write_config(folder, per_device_train_batch_size=4, save_strategy="no")
    return folder


def launch(folder: Path, launcher: str, *words: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `homodistil distill` under a launcher, with flags."""
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", launcher, *words, "-m", "homodistil_hf", "distill", str(folder / "config.json")]
    cache = {"HOMODISTIL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *flags], capture_output=True, text=True, timeout=550, env={**os.environ, **cache}, check=False
    )


def on_two_nodes(folder: Path, output_dir: Path) -> list[subprocess.CompletedProcess[str]]:
    """A launcher a node, both on this machine, one rank each, with one folder for both."""
    port = free_port()

    def node(rank: int) -> subprocess.CompletedProcess[str]:
        words = ["--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1"]
        address = ["--master_addr", "127.0.0.1", "--master_port", str(port)]
        return launch(folder, TORCHRUN, *words, *address, output_dir=output_dir)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(node, (0, 1)))


def results_of(output_dir: Path) -> dict[str, Any]:
    results = json.loads((output_dir / "results.json").read_text(encoding="utf-8"))
    return {name: results[name] for name in ("models", "evaluation", "plan", "num_steps")}


def test_two_nodes_make_the_run_of_two_ranks_under_accelerate(folder, tmp_path):
    shared = tmp_path / "nodes"
    for finished in on_two_nodes(folder, shared):
        assert finished.returncode == 0, finished.stderr[-5000:]
    ranks = tmp_path / "ranks"
    # With --cpu accelerate 1.15 starts one process, whatever --num_processes says; use_cpu is a setting of the run.
    words = ["launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    words += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "--main_process_port", str(free_port())]
    finished = launch(folder, ACCELERATE, *words, output_dir=ranks)
    assert finished.returncode == 0, finished.stderr[-5000:]
    assert results_of(shared) == results_of(ranks)
    assert results_of(ranks)["num_steps"] == 12
    weights = [load_file(run / "student" / "model.safetensors") for run in (shared, ranks)]
    assert weights[0].keys() == weights[1].keys()
    assert [name for name, tensor in weights[0].items() if not tensor.equal(weights[1][name])] == []
