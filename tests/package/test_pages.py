"""Pages that scripts write are those of the code and the records beside them: `make pages` would change nothing."""

import runpy
import shutil
from pathlib import Path

import pytest
from rows import each

from benchmarks import marked_pages
from benchmarks.reliability import page as reliability
from benchmarks.results import page as results
from benchmarks.results.students import Results
from benchmarks.results.tables import Tables
from benchmarks.speed import page as speed
from benchmarks.studies.page import STUDIES, study_named

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
WHOLE = {
    "docs/floors.svg": ("docs/floors.svg", lambda: runpy.run_path("docs/floors.py")["drawn"]()),
    "table of architectures": (
        "docs/architectures.md",
        lambda: runpy.run_path("docs/architectures.py")["page_text"](),
    ),
    "docs/results.md": (
        "docs/results.md",
        lambda: results.page_text(Tables(Results.read(results.FOLDER, results.SWEEPS))),
    ),
}
# several scripts write a page
WHOLE |= {
    name: (str(study.page), study.page_text) for name, study in zip(STUDIES, map(study_named, STUDIES), strict=True)
}


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("page", "text_of"), WHOLE.values(), ids=WHOLE)
def test_a_page_is_that_of_its_script(page, text_of):
    assert text_of() == Path(page).read_text(encoding="utf-8")


def test_the_pages_on_speed_have_what_was_recorded(tmp_path):
    pages = ("performance.md", "latency.md")
    for name in pages:
        shutil.copy(Path("docs", name), tmp_path)
    speed.main(tmp_path)
    for name in pages:
        assert (tmp_path / name).read_text(encoding="utf-8") == Path("docs", name).read_text(encoding="utf-8")


@each("name", ["way", *reliability.SECTIONS])
def test_the_page_on_reliability_has_what_was_recorded(name):
    page = reliability.PAGE.read_text(encoding="utf-8")
    text = reliability.on_the_way() if name == "way" else reliability.text_of(name)
    assert marked_pages.filled(page, name, text) == page


def test_every_file_belongs_to_one_feature_that_has_a_row():
    """Lines of code in the table may have changed since it was written."""
    features = runpy.run_path("docs/features.py")
    places = [place for places in features["FEATURES"].values() for place in places.split()]
    assert sorted(set(places)) == sorted(places)
    assert [place for place in places if not (features["PACKAGE"] / place).exists()] == []
    assert all(features["files_of_features"]().values())  # raises where a file has none
    page = Path("CONTRIBUTING.md").read_text(encoding="utf-8").partition(features["BEGIN"])[2]
    rows = [line for line in page.partition(features["END"])[0].splitlines() if line.startswith("|")]
    first = [[row.split(" | ")[0] for row in table] for table in (rows, features["table"]())]
    assert first[0] == first[1]
