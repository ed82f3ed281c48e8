"""Rows of a query and several texts: as pairs with labels for a reranker, as single texts for other models."""

import json

import pytest
from datasets import Dataset
from rows import each

from homodistil_hf.data.corpus import load_text
from homodistil_hf.data.triplets import as_pairs
from homodistil_hf.embedding.reranker import pairs_in

OF_MARCO = {"is_selected": [0, 1], "passage_text": ["no", "yes"], "url": ["u", "v"]}
SHAPES = {
    "strings": {"query": "q", "positive": "yes", "negative": "no"},
    "anchor": {"anchor": "q", "positive": "yes", "negative_1": "no", "negative_2": None},
    "lists": {"query": "q", "pos": ["yes"], "neg": ["no"], "prompt": "Find it."},
    "objects": {
        "query": "q",
        "positive_passages": [{"docid": "1", "text": "yes"}],
        "negative_passages": [{"docid": "2", "text": "no"}],
    },
    "contexts": {"question": "q", "positive_ctxs": [{"text": "yes"}], "hard_negative_ctxs": [{"text": "no"}]},
    "passages": {"query": "q", "passages": OF_MARCO, "query_id": 3},
    "passages of objects": {"query": "q", "passages": [{"text": "yes", "label": 1}, {"text": "no", "label": 0}]},
    "a list beside its labels": {"query": "q", "docs": ["yes", "no"], "labels": [1, 0]},
    "negatives beside a pair": {"query": "q", "document": "yes", "negatives": ["no"]},
}


@each("shape", SHAPES)
def test_every_shape_becomes_pairs_with_labels_and_texts(tmp_path, shape):
    rows = Dataset.from_list([SHAPES[shape]])
    pairs, columns, *_ = pairs_in(rows)
    assert (columns.texts, columns.labels) == (("query", "passage"), ("label",))
    assert sorted(map(tuple, pairs.to_pandas().to_numpy())) == [("q", "no", 0), ("q", "yes", 1)]
    (tmp_path / "rows.jsonl").write_text(json.dumps(SHAPES[shape]) + "\n")
    for streaming in (False, True):
        texts = load_text(tmp_path / "rows.jsonl", streaming=streaming)
        assert sorted(row["text"] for row in texts) == ["no", "q", "yes"]


@each(
    ("row", "texts"),
    [
        ({"positive": "yes", "anchor": "q"}, ["q", "yes"]),
        ({"question": "q", "answer": "yes"}, ["q", "yes"]),
        ({"query": "q", "text": "yes"}, ["yes"]),
    ],
)
def test_one_query_and_one_text_are_texts(tmp_path, row, texts):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    assert load_text(tmp_path / "rows.jsonl")["text"][:] == texts


@each(
    ("cell", "texts"),
    [('["a", "b"]', ["a", "b"]), ("['a', 'b']", ["a", "b"]), ("[]", []), ("[1] A text.", ["[1] A text."])],
)
def test_lists_in_files_of_words_are_read(cell, texts):
    rows = Dataset.from_list([{"query": "q", "pos": "yes", "neg": cell}])
    pairs, _ = as_pairs(rows)
    assert pairs["passage"][:] == ["yes", *texts]


def test_what_only_looks_like_a_list_is_refused_by_argument_and_row(tmp_path):
    row = {"query": "q", "pos": "yes", "neg": "no"}
    rows = Dataset.from_list([row, row | {"neg": "['a' 'b']"}])
    refused = r"row 2: the cell \"\['a' 'b'\]\" is no list, though it looks like one; write it as"
    with pytest.raises(ValueError, match=f"^eval_data: {refused}"):
        as_pairs(rows, "eval_data")
    rows.to_json(tmp_path / "a.jsonl")
    with pytest.raises(ValueError, match=rf"^train_data='.*a\.jsonl': {refused}"):
        load_text(tmp_path / "a.jsonl")


def test_pairs_without_negatives_and_named_columns_stay(tmp_path):
    rows = Dataset.from_list([{"anchor": "q", "positive": "yes"}])
    assert as_pairs(rows) == (rows, None)
    triplets = Dataset.from_list([SHAPES["strings"]])
    assert pairs_in(triplets, texts=("query", "positive")).columns.texts == ("query", "positive")
    triplets.to_json(tmp_path / "rows.jsonl")
    assert load_text(tmp_path / "rows.jsonl", text_column="query")["text"][:] == ["q"]


def test_passages_without_labels_make_pairs_without():
    pairs, columns, *_ = pairs_in(Dataset.from_list([{"query": "q", "passages": ["a", "b"]}]))
    assert (pairs["passage"][:], columns.labels) == (["a", "b"], ())


def test_the_only_column_of_strings_is_not_all_where_lists_of_strings_lie_beside(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"title": "A", "paragraphs": ["One.", "Two."]}) + "\n")
    with pytest.raises(ValueError, match=r"missing text column .*title \(string\), paragraphs \(List\)"):
        load_text(file)
    file.write_text(json.dumps({"title": "A", "vector": [1.0, 2.0]}) + "\n")
    assert load_text(file)["text"][:] == ["A"]


def test_without_a_query_and_a_text_they_are_refused():
    rows = Dataset.from_list([{"query": "", "positive": "a", "negative": "b"}])
    with pytest.raises(ValueError, match=r"^eval_data: no row has 'query' and a text in 'negative', 'positive'"):
        as_pairs(rows, "eval_data")


def test_texts_are_read_from_columns_that_hold_some(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"query": "how are you", "document": 17, "body": "a long text of a page"}) + "\n")
    with pytest.raises(ValueError, match="missing text column"):
        load_text(file)
    passages = [{"text": None, "content": "a", "label": 1}, {"text": "b", "content": None, "label": 0}]
    pairs, _ = as_pairs(Dataset.from_list([{"query": "q", "passages": passages}]))
    assert (pairs["passage"][:], pairs["label"][:]) == (["a", "b"], [1, 0])
