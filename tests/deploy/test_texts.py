"""Texts that graphs are compared on: the package's own, and lines of a user's file."""

import pytest

from homodistil_hf.deploy.folder import own_rows, texts_of_file


def test_own_rows_are_pairs_of_neighbours():
    rows = own_rows()
    assert len(rows) == 65
    assert [second for _, second in rows] == [first for first, _ in (*rows[1:], rows[0])]


def test_a_tabulator_divides_a_pair_and_other_lines_get_their_neighbours(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("one\ttwo\n\nthree\nfour\n", encoding="utf-8-sig")
    assert texts_of_file(file) == ([("one", "two"), ("three", "four"), ("four", "one")], True)
    # a line ends at its end alone
    file.write_text("one\u2028more\x0c\nthree\r\n", encoding="utf-8")
    assert texts_of_file(file) == ([("one\u2028more\x0c", "three"), ("three", "one\u2028more\x0c")], False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Straße\nCafé\n".encode("latin-1"), r"texts='.*texts.txt' is no UTF-8 text \(invalid .*\); save it as UTF-8"),
        (b"one\n\n", "texts='.*' has 1 texts; expected at least 2, one a line"),
    ],
)
def test_files_without_two_texts_are_refused(content, message, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts_of_file(file)
