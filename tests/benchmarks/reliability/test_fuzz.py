"""The fuzzer in short: a few cases a target, and how it judges them."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from methods_here import has, needs

from benchmarks.reliability import fuzz
from benchmarks.reliability.fuzz_targets import TARGETS, Target
from homodistil_hf.files.strict_json import parse_json

FEW = {"command_lines": 2}
METHODS = {"packed_folders": "binarization", "embedding_folders": "embedding", "embedding_exports": "embedding"}


def no_process(*args):
    """A fresh process for every export that nothing is wrong with would take too long here."""
    raise ValueError("not in a test")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(METHODS[name]) if name in METHODS else ()) for name in sorted(TARGETS)]
)
def test_a_few_cases_end_in_success_or_our_own_error(name, monkeypatch):
    places = ["export", *(["methods.embedding"] if has("embedding") else [])]
    # All are imported before one is changed, as the second takes the function from the first.
    for module in [import_module(f"homodistil_hf.{place}.verify") for place in places]:
        monkeypatch.setattr(module, "run_fresh", no_process)
    num_cases = FEW.get(name, 6)
    found = fuzz.fuzz(name, range(num_cases), seed=7)
    assert found["failures"] == []
    assert found["successes"] + found["own_errors"] == found["cases"] == num_cases


def raise_key_error(folder, draw):
    raise KeyError("inside")


def take_too_long(folder, draw):
    while True:
        pass


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (lambda folder, draw: None, "successes"),
        (lambda folder, draw: parse_json("{", "plan"), "own_errors"),
        (lambda folder, draw: Path("no such file").read_text(), "own_errors"),
        (lambda folder, draw: json.loads("{"), "JSONDecodeError in json"),
        (raise_key_error, "KeyError in tests.benchmarks.reliability.test_fuzz"),
        (take_too_long, "hang: more than 0.2 s"),
    ],
)
def test_the_fuzzer_judges_right(case, outcome, monkeypatch):
    monkeypatch.setitem(fuzz.TARGETS, "some", Target(case, 1, limit_s=0.2))
    assert fuzz.run_case(None, "some", 0, 0).startswith(outcome)


def test_a_case_is_the_same_every_time():
    draws = [fuzz.draw_of("plans", 1, 5).random() for _ in range(2)]
    assert draws[0] == draws[1] != fuzz.draw_of("plans", 1, 6).random()
