"""What commands ask of malloc, and how they end where memory is used up."""

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
from rows import each

from homodistil_hf.cli import main
from homodistil_hf.cli.plan import Plan

pytestmark = pytest.mark.slow


@each(
    ("name", "given", "expected"),
    [
        ("THP_MEM_ALLOC_ENABLE", None, "1"),
        ("THP_MEM_ALLOC_ENABLE", "0", "0"),
        ("OMP_WAIT_POLICY", None, "PASSIVE"),
        ("OMP_WAIT_POLICY", "ACTIVE", "ACTIVE"),
        ("MALLOC_MMAP_MAX_", "7", "7"),
    ],
)
def test_large_pages_and_sleeping_threads_unless_the_user_says_otherwise(name, given, expected, monkeypatch):
    monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(name, given)
    assert main(["cache"]) == 0
    assert os.environ[name] == expected


_FAULTS_OF_A_SECOND_BLOCK = """
import resource
from homodistil_hf.cli import tune_process
if {tuned}:
    tune_process()
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


# Memory that is used up


class Killed(torch.utils.data.Dataset):
    """The kernel ends the process that reads a row."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGKILL)


def _raise(error):
    raise error


PROCESSES = "the number of processes"
SHARED = (
    "DataLoader worker (pid 5) is killed by signal: Bus error. It is possible that workers are out of shared memory."
)


@pytest.mark.parametrize(
    ("use_up", "reason", "setting"),
    [
        (lambda: torch.empty(1 << 50), ".*DefaultCPUAllocator.*", PROCESSES),
        (lambda: np.empty(1 << 50), "Unable to allocate.*", PROCESSES),
        (lambda: pyarrow.allocate_buffer(1 << 50), ".*", PROCESSES),
        (lambda: [0] * (1 << 60), "no more is free", PROCESSES),
        (lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried.\nSee")), "CUDA .* Tried", PROCESSES),
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
        (lambda: _raise(RuntimeError(SHARED)), "DataLoader worker .* shared memory", "dataloader_num_workers"),
    ],
    ids=["torch", "numpy", "arrow", "list", "cuda", "loader", "map", "shared"],
)
def test_memory_that_is_used_up_is_told_as_such(use_up, reason, setting, monkeypatch, capsys):
    monkeypatch.setattr(Plan, "run", lambda command: use_up())
    assert main(["plan", "--teacher", "any", "--student", "homobert-tiny"]) == 2
    assert re.fullmatch(
        rf"homodistil: error: out of memory \({reason}\); lower per_device_train_batch_size \(.*\), the length of "
        rf"texts, or {setting}; a run goes on with resume_from_checkpoint=last",
        capsys.readouterr().err.splitlines()[-1],
    )
