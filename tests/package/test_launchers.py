"""The usual launchers: torchrun on two nodes, one of which may go, and accelerate launch; a whole run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ranks import children, free_port
from safetensors.torch import load_file
from tiny_files import write_config
from transformers import BertForMaskedLM

from homodistil_hf.files.checkpoints import last_checkpoint

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(600)]
TORCHRUN = "torch.distributed.run"
ACCELERATE = "accelerate.commands.accelerate_cli"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teacher, text and config of a run."""
    folder = tmp_path_factory.mktemp("launched")
    write_config(folder, per_device_train_batch_size=4, save_strategy="no")
    return folder


@pytest.fixture(scope="module")
def on_two_nodes(folder: Path) -> Path:
    """The folder of a run of two nodes that nothing happened to."""
    output_dir = folder / "nodes"
    assert_told_once(*(ended(node) for node in start_nodes(folder, output_dir)))
    return output_dir


def start(folder: Path, launcher: str, *words: str, **settings: Any) -> subprocess.Popen[str]:
    """Start `homodistil distill` under a launcher, with flags."""
    command = [sys.executable, "-m", launcher, *words, "-m", "homodistil_hf", "distill", str(folder / "config.json")]
    environment = os.environ | {"HOMODISTIL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *flags(**settings)], text=True, env=environment, **pipes)


def flags(**settings: Any) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def start_nodes(folder: Path, output_dir: Path, **settings: Any) -> list[subprocess.Popen[str]]:
    """A launcher a node, both on this machine, one rank each, with one folder for both."""
    port = free_port()
    words = [["--nnodes", "2", "--node_rank", str(rank), "--nproc_per_node", "1"] for rank in (0, 1)]
    address = ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    return [start(folder, TORCHRUN, *own, *address, output_dir=output_dir, **settings) for own in words]


def ended(launcher: subprocess.Popen[str]) -> str:
    """What a launcher and its ranks have printed, after a good end."""
    printed, log = launcher.communicate(timeout=550)
    assert launcher.returncode == 0, log[-5000:]
    return printed


def assert_told_once(*printed: str) -> None:
    """One rank of all tells how to load model and tokenizer."""
    assert sum(text.count("from_pretrained(") for text in printed) == 2, printed


def results_of(output_dir: Path) -> dict[str, Any]:
    results = json.loads((output_dir / "results.json").read_text(encoding="utf-8"))
    return {name: results[name] for name in ("models", "evaluation", "plan", "num_steps")}


def test_two_nodes_make_the_run_of_two_ranks_under_accelerate(folder, on_two_nodes, tmp_path):
    ranks = tmp_path / "ranks"
    # With --cpu accelerate 1.15 starts one process, whatever --num_processes says; use_cpu is a setting of the run.
    words = ["launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    words += ["--dynamo_backend", "no", "--num_cpu_threads_per_process", "1", "--main_process_port", str(free_port())]
    assert_told_once(ended(start(folder, ACCELERATE, *words, output_dir=ranks)))
    assert BertForMaskedLM.from_pretrained(ranks / "student").config.hidden_size == 16
    assert results_of(on_two_nodes) == results_of(ranks)
    assert results_of(ranks)["num_steps"] == 12
    weights = [load_file(run / "student" / "model.safetensors") for run in (on_two_nodes, ranks)]
    assert weights[0].keys() == weights[1].keys()
    assert [name for name, tensor in weights[0].items() if not tensor.equal(weights[1][name])] == []


def test_a_run_goes_on_without_a_node_that_was_killed(folder, on_two_nodes, as_ranks, monkeypatch):
    run = folder / "without_a_node"
    first, second = start_nodes(folder, run, save_strategy="steps", save_steps=1)
    while last_checkpoint(run) is None and first.poll() is None:
        time.sleep(0.01)
    (rank,) = children(second.pid)
    for process in (second.pid, rank):
        os.kill(process, signal.SIGKILL)
    second.communicate()
    _, log = first.communicate(timeout=120)
    assert first.returncode == 1, log[-5000:]
    going_on = {"output_dir": run, "per_device_train_batch_size": 8, "resume_from_checkpoint": "last"}
    command = ["-m", "homodistil_hf", "distill", folder / "config.json", *flags(**going_on)]
    monkeypatch.setenv("HOMODISTIL_CACHE", str(folder / "cache"))
    alone = as_ranks(*command, num_ranks=1)
    assert alone.returncode == 0, alone.stderr[-5000:]
    assert_told_once(alone.stdout)
    found, expected = results_of(run), results_of(on_two_nodes)
    assert {name: found[name] for name in ("plan", "num_steps")} == {
        name: expected[name] for name in ("plan", "num_steps")
    }
    assert found["evaluation"]["kl"] == pytest.approx(expected["evaluation"]["kl"], rel=1e-3)
