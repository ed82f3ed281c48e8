"""The fuzzer in short: a few cases of each target end in success or in an error of ours."""

from importlib import import_module

import pytest

from benchmarks.reliability import fuzz
from benchmarks.reliability.fuzz_targets import TARGETS

NUM_CASES = 2


def no_process(*args):
    """A fresh process for every export that nothing is wrong with would take too long here."""
    raise ValueError("not in a test")


@pytest.mark.slow
def test_a_few_cases_end_in_success_or_our_own_error(monkeypatch):
    # All are imported before one is changed, as the second takes the function from the first.
    for module in [import_module(f"homodistil_hf.{place}.verify") for place in ("export", "embedding")]:
        monkeypatch.setattr(module, "run_fresh", no_process)
    found = {name: fuzz.fuzz(name, range(NUM_CASES), seed=7) for name in TARGETS}
    assert {name: target["failures"] for name, target in found.items() if target["failures"]} == {}
    assert all(target["successes"] + target["own_errors"] == NUM_CASES for target in found.values())
