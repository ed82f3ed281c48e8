"""Runs that were made twice: what the page says of them."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from sweep_records import MACHINE, add_record, record

from homodistil_hf.experiments.sweep.folder import write_record

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def lines(monkeypatch, tmp_path) -> Any:
    sections = runpy.run_path(str(BENCHMARKS / "results" / "repeats.py"))["repeat_sections"]
    return lambda folder=tmp_path: "\n".join(sections(folder)).splitlines()


def write(folder: Path, one: dict[str, Any]) -> None:
    (add_record if folder.name == "methods_quarter" else write_repeat)(folder, one)


def write_repeat(folder: Path, one: dict[str, Any]) -> None:
    write_record(folder / f"{one['cell']}.json", one)


def test_a_repeated_run_stands_beside_its_first(lines, tmp_path):
    """Both curves have 2 KL at half of the run, so that differs by twice what the end does."""
    write(tmp_path / "methods_quarter", record("homodistil", 0.25, accuracy=0.41))
    write(tmp_path / "methods_quarter", record("homodistil", 0.9, seed=1))
    write(tmp_path / "repeated", record("homodistil", 0.247, accuracy=0.4125))
    write(tmp_path / "repeated", record("one_shot", 0.3) | {"machine": MACHINE | {"processor": "other"}})
    row = "| `homodistil,seed=0` | 0.2500 | 0.2470 | -0.0030 | -0.0060 | 0.4100 | 0.4125 | a processor, a processor |"
    found = lines()
    assert row in found
    assert "`homodistil sweep examples/sweeps/methods_quarter.json --train_only --only homodistil,seed=0`" in found
    assert not any("one_shot" in line for line in found)


def test_without_repeats_the_page_says_nothing(lines, tmp_path):
    write(tmp_path / "methods_quarter", record("homodistil", 0.25))
    assert lines() == []


def test_the_page_in_the_repository_has_the_repeats_beside_it(lines):
    results = BENCHMARKS.parent / "docs" / "results"
    found = "\n".join(lines(results))
    assert "`one_shot,seed=0`" in found
    assert found in (results.parent / "results.md").read_text(encoding="utf-8")
