"""Spans of characters as tags of a tokenizer's words, in scripts with and without spaces."""

import logging

import pytest
from rows import each
from transformers import BertTokenizer

from homodistil_hf.tasks.tags import marked_texts

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = ["O", "B-X", "I-X", "B-Y", "I-Y"]


def marked(text, spans, words=(), **settings):
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate([*SPECIAL, *words])}, **settings)
    (row,) = marked_texts([text], [spans], NAMES, tokenizer, "rows", lambda place: f"row {place + 1}")
    return [(text[first:last], tag) for (first, last), tag in zip(row.words, row.tags, strict=True)]


@each(
    ("text", "spans", "expected"),
    [
        ("Ada, wrote", [[0, 3, "X"]], [("Ada", "B-X"), (",", "O"), ("wrote", "O")]),
        ("我住在北京", [[3, 5, "X"]], [("我", "O"), ("住", "O"), ("在", "O"), ("北", "B-X"), ("京", "I-X")]),
        ("é́a né", [[0, 3, "X"]], [("é́a", "B-X"), ("né", "O")]),
        ("", [], []),
    ],
)
def test_words_are_the_tokenizers(text, spans, expected):
    assert marked(text, spans) == expected


@each(
    ("text", "spans", "words", "expected"),
    [
        ("10km", [[0, 2, "X"], [2, 4, "Y"]], ["10", "##km"], [("10", "B-X"), ("km", "B-Y")]),
        ("ฉันอยู่กรุงเทพ", [[7, 14, "X"]], ["ฉันอยู่", "##กรุงเทพ"], [("ฉันอยู่", "O"), ("กรุงเทพ", "B-X")]),
        ("とうきょう", [[0, 2, "X"]], ["とう", "##きょう"], [("とう", "B-X"), ("きょう", "O")]),
    ],
)
def test_words_are_cut_where_spans_begin_and_end(text, spans, words, expected):
    assert marked(text, spans, words, strip_accents=False, tokenize_chinese_chars=False) == expected


def test_a_span_that_no_token_tells_apart_is_counted(caplog):
    with caplog.at_level(logging.WARNING):
        assert marked("10km", [[0, 2, "X"], [2, 4, "Y"]], ["10km"]) == [("km", "B-Y")]
    assert "1 of 2 spans count for nothing" in caplog.text


def test_spans_with_a_blank_at_an_end_are_counted(caplog):
    with caplog.at_level(logging.WARNING):
        marked("So Ada wrote", [[4, 7, "X"], [7, 12, "Y"]])
    assert "1 of 2 spans begin or end with a blank" in caplog.text


@each(
    ("text", "span", "message"),
    [
        (
            "Ada Ada",
            {"start": 1, "end": 4, "label": "X", "text": "Ada"},
            "row 1 has the span .*, but 'da ' stands there",
        ),
        # counted with what a browser makes of an emoji
        ("So Ada", {"start": 1, "end": 4, "type": "X", "surface": "Ada"}, "but 'o A' stands there; count its offsets"),
        ("Ada", {"start": 0, "end": 3, "label": "X", "text": "Bob"}, "but 'Ada' stands there"),
        ("a  b", [1, 3, "X"], "row 1 has the span .*, which covers no word"),
        ("abc", [0, 9, "X"], "in a text of 3 characters; expected start, end"),
    ],
)
def test_spans_that_do_not_fit(text, span, message):
    with pytest.raises(ValueError, match=message):
        marked(text, [span])
