"""Every file of the package belongs to one feature, and the table of CONTRIBUTING.md has a row for each."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("features", ROOT / "docs" / "features.py")
features = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(features)


def test_every_file_belongs_to_one_feature(monkeypatch):
    monkeypatch.chdir(ROOT)
    places = [place for places in features.FEATURES.values() for place in places.split()]
    assert sorted(set(places)) == sorted(places)
    assert [place for place in places if not (features.PACKAGE / place).exists()] == []
    assert all(features.files_of_features().values())  # raises where a file has none


def test_the_page_has_a_row_for_every_feature(monkeypatch):
    """`make pages` writes it; lines of code may have changed since."""
    monkeypatch.chdir(ROOT)
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition(features.BEGIN)[2]
    rows = [line for line in page.partition(features.END)[0].splitlines() if line.startswith("|")]
    first = [[row.split(" | ")[0] for row in table] for table in (rows, features.table())]
    assert first[0] == first[1]
