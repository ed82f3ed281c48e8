"""What commands ask of malloc, and how they end where memory is used up."""

import os
import platform
import subprocess
import sys

import numpy as np
import pyarrow
import pytest
import torch

from homodistil_hf.cli import main
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
    assert error.endswith("a run goes on with resume_from_checkpoint='last'\n")
    assert error.count("\n") == 1


def test_another_runtime_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(Plan, "run", lambda command: _raise(RuntimeError("of another kind")))
    with pytest.raises(RuntimeError, match="of another kind"):
        main(["plan", "--teacher", "any", "--student", "homobert-tiny"])


def _raise(error: Exception) -> None:
    raise error
