"""Tokenized rows of every kind, and the length that fits them."""

import pytest
from datasets import Dataset
from rows import each
from task_rows import KINDS, rows_of_kind
from tiny_models import make_teacher, tiny_config, tiny_tokenizer

from homodistil_hf.data.masking import IGNORED_LABEL, UNKNOWN_CLASS, UNKNOWN_VALUE
from homodistil_hf.tasks.columns import Columns, ReadRows, check_rows, found_rows
from homodistil_hf.tasks.encoding import (
    encode_rows,
    length_of_rows,
    question_rows,
    texts_of,
    what_fits,
)
from homodistil_hf.tasks.kinds import ANSWERS, CLASSES, LABELS, TAGS, VALUES, task_kind_of

LABEL_NAMES = {ANSWERS: {"start_positions", "end_positions"}}


def read(name, **how):
    model = make_teacher(**KINDS[name][1])
    rows, kind = rows_of_kind(name, **how), task_kind_of(model.config, type(model).__name__)
    return model.config, found_rows(rows, model.config, kind)


@pytest.mark.slow
@each("has_labels", [True, False])
@each("name", KINDS)
def test_rows_have_what_the_stock_model_takes(name, has_labels):
    config, part = read(name, has_labels=has_labels)
    rows, columns, *_ = part
    encoded = encode_rows(part, config, tiny_tokenizer(), max_length=24)
    labels = LABEL_NAMES.get(columns.kind, {"labels"})
    assert set(encoded.column_names) == {"input_ids", "token_type_ids", "attention_mask"} | labels
    assert len(encoded) == len(rows)
    flat = [encoded[column][0] for column in labels]
    unknown = {VALUES: UNKNOWN_VALUE}.get(columns.kind, UNKNOWN_CLASS)
    if name in ("classes", "pairs", "answers"):
        assert (flat[0] == unknown) is not has_labels


def test_answers_are_the_tokens_of_their_text():
    config, part = read("answers")
    tokenizer = tiny_tokenizer()
    encoded = encode_rows(part, config, tokenizer, max_length=24)
    for row, found in zip(part.rows, encoded, strict=True):
        tokens = found["input_ids"][found["start_positions"] : found["end_positions"] + 1]
        assert tokenizer.decode(tokens) == row["answers"]["text"][0]


def test_tags_stand_at_first_tokens():
    config, part = read("tags")
    encoded = encode_rows(part, config, tiny_tokenizer(), max_length=24)
    assert encoded["labels"][0] == [IGNORED_LABEL, 1, 2, *[0] * (len(part.rows["tokens"][0]) - 2), IGNORED_LABEL]


@each(
    ("num_words", "columns", "expected"),
    [
        (3, Columns(CLASSES, ("text",)), 16),
        (15, Columns(CLASSES, ("text",)), 24),
        (90, Columns(CLASSES, ("text",)), 32),
        (5, Columns(CLASSES, ("text", "text")), 16),
        (9, Columns(CLASSES, ("text", "text")), 24),
    ],
)
def test_the_length_fits_99_of_100_rows(num_words, columns, expected):
    rows = Dataset.from_dict({"text": [" ".join(["w7"] * num_words)] * 200 + [" ".join(["w7"] * 500)]})
    assert length_of_rows(ReadRows(rows, columns), tiny_config(), tiny_tokenizer()) == expected


def test_questions_get_windows_of_a_usual_length():
    rows = Dataset.from_dict({"question": ["w7"] * 9, "context": [" ".join(["w7"] * 600)] * 9})
    config = tiny_config(max_position_embeddings=512)
    assert length_of_rows(ReadRows(rows, Columns(ANSWERS, ("question", "context"))), config, tiny_tokenizer()) == 384


@pytest.mark.parametrize(
    ("length", "kind", "words"),
    [
        (24, LABELS, "99 of 100 rows fit, longer ones are cut; 64 are possible"),
        (64, LABELS, "the model reads no more, longer rows are cut"),
        (64, ANSWERS, "longer contexts are cut into windows that overlap"),
    ],
)
def test_what_becomes_of_longer_rows_is_said(length, kind, words):
    config = tiny_config(max_position_embeddings=64)
    assert what_fits(length, Columns(kind, ("text",)), config, tiny_tokenizer()) == words


def test_texts_are_documents():
    rows = Dataset.from_dict({"tokens": [["a", "b"], ["c"]]})
    assert texts_of(ReadRows(rows, Columns(TAGS, ("tokens",))))["text"][:] == ["a b", "c"]
    written = Dataset.from_dict({"tokens": ['["a", "b"]', "['c']", "d e"]})
    assert texts_of(ReadRows(written, Columns(TAGS, ("tokens",))))["text"][:] == ["a b", "c", "d e"]
    pairs = Dataset.from_dict({"one": ["a"], "two": ["b"]})
    assert texts_of(ReadRows(pairs, Columns(CLASSES, ("one", "two"))))["text"][:] == ["a", "b"]


def test_questions_without_known_answers_are_not_graded():
    _, part = read("answers")
    assert question_rows(part).num_rows == len(part.rows)
    _, part = read("answers", has_labels=False)
    assert question_rows(part) is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"text": ["a", None, "", " "]}, "rows has 3 rows without 'text', the first is row 2; drop them"),
        ({"text": [1, 2]}, "column 'text' holds int64; expected a text a row"),
        ({"text": []}, "rows has 0 rows; expected 1 or more"),
    ],
)
def test_rows_without_text(rows, message):
    with pytest.raises(ValueError, match=message):
        check_rows(ReadRows(Dataset.from_dict(rows), Columns(CLASSES, ("text",)), "rows"))


@each(
    "answers",
    [
        [{"text": ["b"], "answer_start": [2]}, {"text": [], "answer_start": []}],
        [[{"text": "b", "answer_start": 2}], []],
        ['{"text": ["b"], "answer_start": [2]}', "[]"],
        ["{'text': ['b'], 'answer_start': [2]}", "[]"],
        ["{'text': array(['b'], dtype=object), 'answer_start': array([2])}", "[]"],
    ],
)
def test_answers_may_be_lists_or_objects(answers):
    rows = Dataset.from_dict({"question": ["q"] * 2, "context": ["a b"] * 2, "answers": answers})
    found = question_rows(ReadRows(rows, Columns(ANSWERS, ("question", "context"), ("answers",))))
    assert [(row["text"], row["answer_start"]) for row in found["answers"]] == [(["b"], [2]), ([], [])]


def test_words_beyond_the_length_are_told(caplog):
    caplog.set_level("INFO")
    config, part = read("tags")
    encode_rows(part, config, tiny_tokenizer(), max_length=24)
    assert "beyond max_length" not in caplog.text
    encode_rows(part, config, tiny_tokenizer(), max_length=4)
    given = sum(map(len, part.rows["tokens"]))
    left = given - sum(min(2, len(words)) for words in part.rows["tokens"])
    assert f"train_data: {left:,} of {given:,} tagged words lie beyond max_length=4 tokens" in caplog.text
