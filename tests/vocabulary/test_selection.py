"""Which tokens stay: by number, by frequency, by list."""

import numpy as np
import pytest
from rows import each

from homodistil_hf.vocabulary.selection import Vocabulary, select

IDS = {f"t{number}": number for number in range(40)}
COUNTS = np.array([0, 0, *range(38, 0, -1)])


def chosen(text, *, required=(0, 1), needs=None, counts=COUNTS):
    return select(Vocabulary.parse(text), IDS, set(required), needs or (lambda token: {token}), counts)


def test_a_number_is_met_by_the_most_frequent():
    assert chosen("keep=10") == list(range(10))
    assert chosen("keep=10", counts=COUNTS[::-1]) == [0, 1, *range(30, 38)]
    assert chosen("keep=40") == list(range(40))


def test_a_file_has_a_token_a_line_whatever_characters_it_has(tmp_path):
    tokens = ("w7", "\u2028", "a\x85b", " ", "\x0c")
    (tmp_path / "tokens.txt").write_bytes("\r\n".join(tokens).encode() + b"\n")
    assert Vocabulary.parse(str(tmp_path / "tokens.txt")).tokens == tokens


def test_equally_frequent_tokens_stay_by_id():
    assert chosen("keep=9", counts=np.ones(40)) == list(range(9))


def test_a_token_counts_with_what_it_is_merged_from():
    needs = {2: {2, 38, 39}, 3: {3, 39}, 4: {4}}
    assert chosen("keep=6", needs=lambda token: needs.get(token, {token})) == [0, 1, 2, 3, 38, 39]
    assert chosen("keep=4", needs=lambda token: needs.get(token, {token})) == [0, 1, 3, 39]  # 2 doesn't fit


def test_a_frequency_leaves_a_multiple_of_eight():
    assert chosen("min_count=31") == list(range(16))  # ten tokens, filled up
    assert chosen("min_count=33") == list(range(8))
    assert chosen("min_count=1000") == list(range(8))


@each(("share", "expected"), [("0.5", 16), ("0.9", 32), ("1", 40), ("1.0", 40), (".05", 8)])
def test_a_share_of_the_text_leaves_as_few_as_have_it(share, expected):
    found = chosen(f"coverage={share}")
    assert found == list(range(expected))
    assert COUNTS[found].sum() >= float(share) * COUNTS.sum()
    assert COUNTS[: expected - 8].sum() < float(share) * COUNTS.sum()  # filled up to a multiple of eight


def test_a_share_counts_what_stays_anyway():
    counts = np.array([50, 30, 10, 5, 5])
    ids = {f"t{number}": number for number in range(5)}
    found = select(Vocabulary.parse("coverage=0.9"), ids, {3, 4}, lambda token: {token}, counts)
    assert found == [0, 1, 2, 3, 4]
    assert select(Vocabulary.parse("coverage=0.1"), ids, {0, 1}, lambda token: {token}, counts)[:2] == [0, 1]


def test_a_list_is_taken_as_it_is(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("t30\nt7\n\n", encoding="utf-8")
    assert chosen(str(path)) == [0, 1, 7, 30]
    path.write_text("t300\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match="has the token 't300', which the tokenizer doesn't have; nearest valid: 't30'"
    ):
        chosen(str(path))


@each(
    ("text", "message"),
    [
        ("keep=1", "out of reach, as 2 always stay; nearest valid: keep=2"),
        ("keep=41", "out of reach, as there are no more; nearest valid: keep=40"),
        ("keep=0", "is no vocabulary; expected keep=16384, min_count=5, coverage=0.999, or"),
        ("keep=-4", "is no vocabulary"),
        *((f"coverage={share}", "is no vocabulary") for share in ("0", "1.5", "2", "-0.5", "nan", "1e-3", "")),
        ("16384", "is no vocabulary"),
        ("", "is no vocabulary"),
        ("nowhere.txt", "is no vocabulary"),
    ],
)
def test_what_can_not_be_met_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        chosen(text)


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff\n"])
def test_a_file_without_a_token_is_refused(tmp_path, text):
    (tmp_path / "empty.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is a file without a token; expected one a line"):
        Vocabulary.parse(str(tmp_path / "empty.txt"))
