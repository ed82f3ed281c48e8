"""README, index and guides have one figure for a quantity: a page that differs from the record is found."""

import re
from pathlib import Path

import pytest

from benchmarks import figures

ROOT = Path(__file__).parents[2]
HALF = "99.6<!-- figure half_stsb --> %"


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def known():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return figures.figures()


def differing(pages: dict[Path, str], known: dict[str, str]) -> list[str]:
    """Pages whose named figures are not those of the records, and measurements that have no name."""
    found = [str(page) for page, text in pages.items() if figures.with_figures(text, known) != text]
    return found + [
        line for page, text in pages.items() if page.stem not in figures.STUDIES for line in figures.unnamed(text)
    ]


def test_pages_and_records_tell_the_same_figures(known):
    texts = {page: page.read_text(encoding="utf-8") for page in figures.pages()}
    assert differing(texts, known) == []
    used = {name for text in texts.values() for name in re.findall(r"<!-- figure (\w+) -->", text)}
    assert sorted(used) == sorted(known)
    # the same quantity in several pages is one name
    assert sum(HALF in text for text in texts.values()) == 3


@pytest.mark.parametrize(
    "planted",
    [
        HALF.replace("99.6", "99.5"),  # the guide tells another figure than the index
        "99.6 %",  # a figure that no record holds up
        "99.6<!-- figure half_stsb --> %, 3.3 × as fast",
    ],
)
def test_a_planted_difference_is_found(known, planted):
    page = Path("docs/guides/embedding.md")
    text = page.read_text(encoding="utf-8")
    assert differing({page: text}, known) == []
    assert len(differing({page: text.replace(HALF, planted)}, known)) == 1


def test_a_record_that_changes_is_found(known):
    page = Path("docs/index.md")
    assert differing({page: page.read_text(encoding="utf-8")}, known | {"glue_quarter": "98.4"}) == ["docs/index.md"]


def test_an_unknown_name_is_refused(known):
    with pytest.raises(ValueError, match="unknown figure 'half_stbs'; nearest valid: 'half_stsb'"):
        figures.with_figures("99.6<!-- figure half_stbs --> %", known)


def test_every_speed_up_stands_beside_its_runtime():
    for page in figures.pages():
        for words in re.findall(r"times_faster --> ×[^(]*", page.read_text(encoding="utf-8")):
            assert "ONNX Runtime" in words
    assert "| × as fast, ONNX |" in figures.README.read_text(encoding="utf-8")
