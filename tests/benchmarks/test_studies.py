"""Every page has the tables of its study's record."""

from pathlib import Path

import pytest
from rows import each

from benchmarks.studies import first_screen
from benchmarks.studies.page import STUDIES, study_named
from homodistil_hf.files.strict_json import read_json_rows


@each("name", STUDIES)
def test_the_page_has_the_tables_of_the_record(name, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    study = study_named(name)
    assert study.tables(study.read())
    assert study.page_text() == study.page.read_text(encoding="utf-8")


def test_the_readmes_plot_has_every_size_and_method_where_its_record_says(tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    words = first_screen.masked_word_points()
    assert words.keys() == {first_screen.OURS, *first_screen.BASELINES.values()}
    half, quarter, eighth = words[first_screen.OURS]
    assert half == (pytest.approx(1.828, abs=1e-3), pytest.approx(96.9, abs=0.05))  # as docs/results.md
    assert half[0] < quarter[0] < eighth[0]
    assert words["pruned by magnitude"] == [(quarter[0], pytest.approx(85.8, abs=0.05))]
    vectors = first_screen.embedding_points(read_json_rows(first_screen.EMBEDDINGS, "embeddings"))
    assert [kept for _, kept in vectors[first_screen.OURS]] == [
        pytest.approx(99.6, abs=0.05),
        pytest.approx(98.2, abs=0.05),
    ]
    first_screen.draw(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
