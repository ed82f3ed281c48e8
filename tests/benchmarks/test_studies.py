"""Every page has the tables of its study's record."""

import importlib
from pathlib import Path

import pytest

from benchmarks import studies
from benchmarks.studies.study import Study

STUDIES = {
    f"{file.stem}.{name}": value
    for file in sorted(Path(studies.__path__[0]).glob("*.py"))
    for name, value in vars(importlib.import_module(f"{studies.__name__}.{file.stem}")).items()
    if isinstance(value, Study) and (value.tables.__module__ == f"{studies.__name__}.{file.stem}")
}


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_has_the_tables_of_the_record(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    study = STUDIES[name]
    assert study.tables(study.read())
    assert study.page_text() == study.page.read_text(encoding="utf-8")
