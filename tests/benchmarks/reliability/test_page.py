"""The figures of docs/reliability.md are those of the files in docs/results/, and the paper follows real schedules."""

import json
from pathlib import Path

import pytest
from transformers import BertConfig

from benchmarks import marked_pages
from benchmarks.reliability import page as write_reliability
from benchmarks.reliability import scaling
from homodistil_hf.plans.resolve import resolve_plan

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", write_reliability.SECTIONS)
def test_the_page_tells_what_was_measured(name):
    page = write_reliability.PAGE.read_text(encoding="utf-8")
    assert marked_pages.filled(page, name, write_reliability.text_of(name)) == page


def test_nothing_measured_was_other_than_on_paper():
    results = json.loads((write_reliability.FOLDER / "scaling.json").read_text(encoding="utf-8"))
    assert {len(ranks) for ranks in results["worlds"].values()} == {1, 2, 4}
    assert set(results["differences"].values()) == {0}


def test_a_page_without_the_place_is_an_error():
    with pytest.raises(ValueError, match="has 0 places marked soak; expected one"):
        marked_pages.filled("# Page", "soak", "text")


def test_the_paper_sends_less_as_the_student_shrinks():
    config = BertConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    settings = {"num_steps": 50, "interval_steps": 5, "start_fraction": 0.2, "end_fraction": 0.8, "multiple": 8}
    target = resolve_plan("macs=0.25", config, multiple=8)
    steps = scaling.steps_of_a_run(config, target, settings)
    sizes = [step.num_parameters for step in steps]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == sum(step.sliced for step in steps) + 1 > 2
    assert sizes[-1] == scaling.trained_parameters(config, target)
