"""Every page has the tables of its study's record."""

from pathlib import Path

from rows import each

from benchmarks.studies.page import STUDIES, study_named


@each("name", STUDIES)
def test_the_page_has_the_tables_of_the_record(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    study = study_named(name)
    assert study.tables(study.read())
    assert study.page_text() == study.page.read_text(encoding="utf-8")
