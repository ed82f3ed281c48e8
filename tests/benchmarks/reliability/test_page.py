"""The figures of docs/reliability.md are those of the files in docs/results/, and the paper counts real parameters."""

import json
from pathlib import Path

import pytest
from rows import each

from benchmarks import marked_pages
from benchmarks.reliability import page as write_reliability
from homodistil_hf.models.widths import widths_of

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@each("name", ["way", *write_reliability.SECTIONS])
def test_the_page_tells_what_was_measured(name):
    page = write_reliability.PAGE.read_text(encoding="utf-8")
    text = write_reliability.on_the_way() if name == "way" else write_reliability.text_of(name)
    assert marked_pages.filled(page, name, text) == page


def test_nothing_measured_was_other_than_on_paper():
    results = json.loads((write_reliability.FOLDER / "scaling.json").read_text(encoding="utf-8"))
    assert {len(ranks) for ranks in results["worlds"].values()} == {1, 2, 4}
    assert set(results["differences"].values()) == {0}


def test_parameters_on_paper_are_those_that_are_trained(make_trainer):
    trainer = make_trainer()
    teacher = trainer.distillation.teacher.exact.config
    trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    assert write_reliability.trained_parameters(teacher, widths_of(trainer.model.config)) == trained
