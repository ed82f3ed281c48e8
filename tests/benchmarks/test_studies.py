"""Every page has the tables of its study's record."""

from pathlib import Path

import pytest
from methods_here import needs

from benchmarks.studies.page import STUDIES, study_named

METHODS = {"binarization": "binarization"}
"""Module of a study → the method that it imports."""


def marked(name: str) -> object:
    method = METHODS.get(name.partition(".")[0])
    return pytest.param(name, marks=[needs(method)] if method else [])


@pytest.mark.parametrize("name", [marked(name) for name in STUDIES])
def test_the_page_has_the_tables_of_the_record(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    study = study_named(name)
    assert study.tables(study.read())
    assert study.page_text() == study.page.read_text(encoding="utf-8")
