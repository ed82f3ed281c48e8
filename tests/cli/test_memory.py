"""What commands ask of malloc, and how they end where memory is used up."""

import gc
import os
import platform
import re
import signal
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
import torch
from datasets import Dataset

from homodistil_hf.cli import main
from homodistil_hf.cli.command import importing
from homodistil_hf.cli.plan import Plan


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_large_tensors_go_into_large_pages_unless_told_otherwise(given, expected, monkeypatch, capsys):
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if given is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", given)
    assert main(["cache"]) == 0
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == expected


_FAULTS_OF_A_SECOND_BLOCK = """
import resource
from homodistil_hf.cli import keep_memory
if {tuned}:
    keep_memory()
faults = []
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(100_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    del block
print(faults[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("tuned", [True, False])
def test_freed_memory_is_used_again_without_page_faults(tuned):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _FAULTS_OF_A_SECOND_BLOCK.format(tuned=tuned)]
    faults = int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    assert (faults < 10) == tuned  # even huge pages would be 48


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_sleep_unless_the_user_wants_otherwise(given, expected, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert main(["cache"]) == 0
    assert os.environ["OMP_WAIT_POLICY"] == expected


def test_a_command_sets_it_before_torch_is_loaded():
    code = "import sys, homodistil_hf.cli; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "False\n"


def test_no_garbage_is_collected_while_a_command_imports(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    brought: list[object] = []
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert not _is_collected(brought)
    finally:
        gc.enable()


def _is_collected(thing: object) -> bool:
    """Whether collections look at it: what is frozen, they leave out."""
    return any(found is thing for found in gc.get_objects())


def test_what_a_user_says_of_malloc_stays(monkeypatch):
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert main(["cache"]) == 0
    assert os.environ["MALLOC_MMAP_MAX_"] == "7"


# Memory that is used up


@pytest.mark.slow
@pytest.mark.parametrize(
    "use_up",
    [
        lambda: torch.empty(1 << 50),
        lambda: np.empty(1 << 50),
        lambda: pyarrow.allocate_buffer(1 << 50),
        lambda: [0] * (1 << 60),
        lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nSee documentation")),
    ],
    ids=["torch", "numpy", "arrow", "list", "cuda"],
)
def test_memory_that_is_used_up_is_told_as_such(use_up, monkeypatch, capsys):
    monkeypatch.setattr(Plan, "run", lambda command: use_up())
    assert main(["plan", "--teacher", "any", "--student", "homobert-tiny"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("homodistil: error: out of memory (")
    assert error.endswith("a run goes on with resume_from_checkpoint=last\n")
    assert error.count("\n") == 1


class Killed(torch.utils.data.Dataset):
    """The kernel ends the process that reads a row."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("use_up", "reason", "setting"),
    [
        (
            lambda: list(torch.utils.data.DataLoader(Killed(), num_workers=1)),
            r"DataLoader worker \(pid \d+\) is killed by signal: Killed",
            "dataloader_num_workers",
        ),
        (
            lambda: Dataset.from_dict({"text": ["a"] * 8}).map(lambda row: Killed()[0], num_proc=2),
            "One of the subprocesses has abruptly died during map operation.*",
            "preprocessing_num_workers",
        ),
        (
            lambda: _raise(
                RuntimeError(
                    "DataLoader worker (pid 5) is killed by signal: Bus error. It is possible that dataloader's "
                    "workers are out of shared memory. Please try to raise your shared memory limit."
                )
            ),
            "DataLoader worker .*raise your shared memory limit",
            "dataloader_num_workers",
        ),
    ],
    ids=["loader", "map", "shared"],
)
def test_a_worker_that_was_killed_for_memory_is_told_as_such(use_up, reason, setting, monkeypatch, capsys):
    monkeypatch.setattr(Plan, "run", lambda command: use_up())
    assert main(["plan", "--teacher", "any", "--student", "homobert-tiny"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        rf"homodistil: error: out of memory \({reason}\); lower per_device_train_batch_size \(.*\), the length of "
        rf"texts, or {setting}; a run goes on with resume_from_checkpoint=last",
        error,
    )


def _raise(error):
    raise error
