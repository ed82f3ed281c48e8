"""A word and its tag a line, or a row, as rows of sentences."""

import pytest
from datasets import ClassLabel, Dataset
from rows import each

from homodistil_hf.data.corpus import load_text
from homodistil_hf.tasks.reading import grouped, load_rows

TWO = {"tokens": [["Ada", "wrote"], ["Rome"]], "ner_tags": [["B-PER", "O"], ["B-LOC"]]}


@each(
    ("name", "content"),
    [
        ("a.conll", "Ada B-PER\nwrote O\n\nRome B-LOC\n"),
        ("a.txt", "Ada\tB-PER\nwrote\tO\n\n\nRome\tB-LOC"),
        ("a.txt", "-DOCSTART- -X- O O\n\nAda NNP B-NP B-PER\nwrote VBD B-VP O\n\nRome NNP B-NP B-LOC\n"),
        ("a.bio", "# of GermEval\n1\tAda\tB-PER\tO\n2\twrote\tO\tO\n\n1\tRome\tB-LOC\tO\n"),
        ("a.csv", "Sentence #,Word,POS,Tag\nSentence: 1,Ada,NNP,B-PER\n,wrote,VBD,O\nSentence: 2,Rome,NNP,B-LOC\n"),
        ("a.tsv", "sent_id\ttoken\tner\n7\tAda\tB-PER\n7\twrote\tO\n8\tRome\tB-LOC\n"),
    ],
)
def test_sentences_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert load_rows([str(tmp_path / name)])[:] == TWO


def test_a_blank_of_another_kind_may_be_a_word(tmp_path):
    (tmp_path / "a.txt").write_text("10\xa0km  B-X\n\u2028 O\n", encoding="utf-8")
    assert load_rows([str(tmp_path / "a.txt")])[:] == {"tokens": [["10\xa0km", "\u2028"]], "ner_tags": [["B-X", "O"]]}


@each("content", ["A plain text.\n\nYes O\n", "one two\nthree four\n", "I O\nA plain line O\n"])
def test_other_text_is_none(tmp_path, content):
    (tmp_path / "a.txt").write_text(content)
    assert load_rows([str(tmp_path / "a.txt")]).column_names == ["text"]


@each(
    ("content", "message"),
    [
        ("Ada B-PER\nwrote\n", "line 2 of a.conll has 1 columns, 'wrote'; expected 2"),
        ("Ada\n", "line 1 of a.conll has 1 columns"),
        ("\n\n", "has no words"),
    ],
)
def test_lines_without_a_tag_are_refused(tmp_path, content, message):
    (tmp_path / "a.conll").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_rows([str(tmp_path / "a.conll")])


def test_texts_are_no_words_with_tags(tmp_path):
    (tmp_path / "a.conll").write_text("Ada B-PER\n")
    with pytest.raises(ValueError, match="holds words with tags"):
        load_text(tmp_path / "a.conll")


def test_a_sentence_a_row_stays():
    rows = Dataset.from_dict({"sentence": ["Ada wrote", "Rome"], "word": ["Ada", "Rome"], "label": ["x", "y"]})
    assert grouped(rows) is rows


def test_words_in_the_context_of_a_sentence_are_rows_of_their_own():
    sentence = "the river bank was steep and muddy"
    rows = {"sentence": [sentence] * 3, "word": ["river", "bank", "steep"], "label": ["x", "y", "x"]}
    assert (table := Dataset.from_dict(rows)) is grouped(table)
    named = {
        "sentence": ["Sentence number 1 of page 4"] * 2 + ["Sentence number 2 of page 4"],
        "word": ["Ada", "wrote", "Rome"],
    }
    table = grouped(Dataset.from_dict(named | {"tag": ["B-PER", "O", "B-LOC"]}))
    assert table[:] == TWO
    words = sentence.split()  # all of them: one sentence
    table = grouped(Dataset.from_dict({"sentence": [sentence] * 7, "word": words, "tag": ["O"] * 7}))
    assert table[:] == {"tokens": [words], "ner_tags": [["O"] * 7]}


def test_lists_of_words_as_files_of_words_have_them_stay():
    sentences = ["Hello, Ann", "Hello, Ann", "Bob ran"]
    words = ["['Hello', ',', 'Ann']", "['Hello', ',', 'Ann']", "['Bob', 'ran']"]
    tags = ["['O', 'O', 'B-PER']", "['O', 'O', 'B-PER']", "['B-PER', 'O']"]
    rows = Dataset.from_dict({"sentence": sentences, "tokens": words, "ner_tags": tags})
    assert grouped(rows) is rows


def test_words_in_other_forms_than_in_their_sentence_are_rows_of_their_own():
    sentences = ["the bank closes on Sundays at noon"] * 2 + ["she was running late", "they ate early today"]
    words = {"word": ["Bank", "Close", "Run", "eat"], "label": ["1", "0", "1", "0"]}
    rows = Dataset.from_dict({"sentence": sentences, **words})
    assert grouped(rows) is rows


def test_tags_of_a_feature_keep_their_names_and_words_may_have_none():
    rows = Dataset.from_dict({"sent_id": [1, 1, 2, 2], "token": ["Ada", None, "to", "Rome"], "tag": [0, -1, 2, 1]})
    rows = rows.cast_column("tag", ClassLabel(names=["B-PER", "B-LOC", "O"]))
    expected = {"tokens": [["Ada", ""], ["to", "Rome"]], "ner_tags": [["B-PER", None], ["O", "B-LOC"]]}
    assert grouped(rows)[:] == expected
