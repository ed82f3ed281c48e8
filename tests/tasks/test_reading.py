"""Rows of files as people have them: every format gives the same rows."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset
from rows import each

from homodistil_hf.data.corpus import load_text
from homodistil_hf.tasks.reading import load_rows

ROWS = {"text": ["one, two", "three"], "label": ["null", "007"]}


@pytest.fixture
def written(tmp_path):
    """Format → file of `ROWS`."""
    tmp_path = tmp_path / "rows"
    tmp_path.mkdir()
    rows = Dataset.from_dict(ROWS)
    lines = list(rows)
    rows.to_csv(tmp_path / "a.csv")
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "\n".join(f"{row['text']}\t{row['label']}" for row in lines))
    rows.to_parquet(tmp_path / "a.parquet")
    rows.to_json(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text(json.dumps({"data": lines}))
    (tmp_path / "list.json").write_text(json.dumps(lines), encoding="utf-8-sig")
    rows.save_to_disk(tmp_path / "saved")
    return tmp_path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.jsonl", "a.json", "list.json", "saved"])
def test_every_format_gives_the_same_rows(written, name):
    assert load_rows([str(written / name)]).to_dict() == ROWS
    written.rename(written.parent / "rows[1]")  # a file that is there is no glob
    assert load_rows([str(written.parent / "rows[1]" / name)]).to_dict() == ROWS


def test_sources_follow_each_other(written):
    rows = load_rows([str(written / "a.csv"), str(written / "a.jsonl")])
    assert rows["text"][:] == ROWS["text"] * 2


def test_values_of_several_types_are_their_json(tmp_path):
    lines = [{"text": "a", "label": [[0, 1, "X"]]}, {"text": "b", "label": None}, {"text": "c", "label": "word"}]
    (tmp_path / "mixed.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert load_rows([str(tmp_path / "mixed.jsonl")])["label"][:] == ['[[0, 1, "X"]]', None, "word"]


@each(
    ("line", "message"),
    [
        ('{"text": "\\ud800"}', r"a.jsonl' is unreadable: column 'text': .*surrogates not allowed; correct or drop"),
        ("null", "row 2 is None; expected an object a row"),
        ('{"text": "b', "line 2 is no JSON"),
    ],
)
def test_the_first_line_that_is_no_row_is_named(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        load_rows([str(tmp_path / "a.jsonl")])


def test_columns_of_other_types_are_refused(tmp_path):
    Dataset.from_dict({"note": [None], "label": [1]}).to_parquet(tmp_path / "a.parquet")
    Dataset.from_dict({"note": ["y"], "label": ["x"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"have columns of other types \('label': 'int64' and 'string'\); make"):
        load_rows([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")])


def test_no_source_is_told():
    with pytest.raises(ValueError, match="eval_data is not set"):
        load_rows([], argument="eval_data")


def test_a_csv_that_is_none(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xff\xff,1\n")
    with pytest.raises(ValueError, match=r"a\.csv' is unreadable .*; expected UTF-8: convert it, as by `iconv -f ISO"):
        load_rows([str(tmp_path / "a.csv")])


def test_a_spreadsheets_semicolons_are_no_words(tmp_path):
    (tmp_path / "a.csv").write_text('text;label\n"one; two, three";a\n')
    (tmp_path / "b.csv").write_text("text\tlabel\nfour, five\tb\n")
    (tmp_path / "c.csv").write_text("text\nsix; seven\n")
    rows = [load_rows([str(tmp_path / f"{name}.csv")]).to_list() for name in "abc"]
    assert rows[:2] == [[{"text": "one; two, three", "label": "a"}], [{"text": "four, five", "label": "b"}]]
    assert rows[2] == [{"text": "six; seven"}]


def test_files_without_rows_are_named_with_their_columns(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\n")
    (tmp_path / "b.csv").write_text("text,label\nx,y\n")
    (tmp_path / "c.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"^train_data='.*a\.csv' has the columns .label., .text., but no rows; add"):
        load_rows([str(tmp_path / "a.csv")])
    with pytest.raises(ValueError, match=r"^train_data='.*c\.jsonl' holds \[\]; expected a list of rows"):
        load_rows([str(tmp_path / "c.jsonl")])
    rows = load_rows([str(tmp_path / name) for name in ("a.csv", "b.csv")])
    assert rows.to_list() == [{"text": "x", "label": "y"}]


@pytest.mark.parametrize("name", ["annotations", "completions"])
def test_label_studios_full_export_names_the_other_one(tmp_path, name):
    tasks = [{"id": 1, name: [{"result": []}], "data": {"text": "w7 w8"}}]
    (tmp_path / "a.json").write_text(json.dumps(tasks))
    with pytest.raises(ValueError, match="a.json is Label Studio's full export; export it again, as JSON-MIN"):
        load_rows([str(tmp_path / "a.json")])


def test_words_by_their_places_are_words(tmp_path):
    words = pa.array([["one", "two"]] * 2, pa.list_(pa.string_view()))
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), pa.schema({"tokens": words.type})) as opened:
        opened.write_table(pa.table({"tokens": words}))
    assert load_rows([str(tmp_path / "a.arrow")])["tokens"][0] == ["one", "two"]


@pytest.mark.parametrize(
    ("question", "row"),
    [
        ({}, {}),
        ({"id": "a"}, {"id": "a"}),
        ({"is_impossible": True}, {"answers": {"text": [], "answer_start": []}}),
        ({"answers": [{"text": "w", "answer_start": 0}]}, {"answers": {"text": ["w"], "answer_start": [0]}}),
    ],
)
def test_nested_questions_need_neither_answers_nor_ids(tmp_path, question, row):
    paragraph = {"context": "w7 w8", "qas": [{"question": "w9"} | question]}
    (tmp_path / "a.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    assert load_rows([str(tmp_path / "a.json")]).to_list() == [row | {"question": "w9", "context": "w7 w8"}]


def test_cells_and_columns_of_a_table_stay_as_they_are_written(tmp_path):
    texts = ["one\n\ntwo", "one\n   \ntwo", "red"]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["", "text", "text", "label"], *([text, text, "x", "y"] for text in texts)])
    rows = load_rows([str(tmp_path / "a.csv")])
    assert rows["text"][:] == rows["Unnamed: 0"][:] == texts
    assert rows["text.1"][:] == ["x"] * 3


@each("kind", ["parquet", "arrow"])
def test_classes_of_files_that_number_them_otherwise_are_refused(tmp_path, kind):
    for place, names in enumerate((["neg", "pos"], ["pos", "neg"])):
        rows = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
        rows = rows.cast_column("label", ClassLabel(names=names))
        if kind == "parquet":
            rows.to_parquet(tmp_path / f"{place}.parquet")
        else:
            rows.save_to_disk(tmp_path / str(place))
    with pytest.raises(ValueError, match="columns of other types"):
        load_rows([str(tmp_path)])
    assert len(load_text(tmp_path)) == 4


def test_sources_with_labels_in_different_columns_are_told(tmp_path, caplog):
    for name, column in (("a", "label"), ("b", "labels")):
        (tmp_path / f"{name}.csv").write_text(f"text,{column}\nx,pos\n")
    load_rows([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    assert "labels in different columns, 'label', 'labels'" in caplog.text


def test_a_row_of_empty_cells_between_tabs_is_a_row(tmp_path):
    (tmp_path / "a.tsv").write_text("text\tlabel\na\t1\n\t\nb\t0\n")
    assert load_rows([str(tmp_path / "a.tsv")])["label"][:] == ["1", "", "0"]


def test_a_line_of_blanks_in_a_table_is_empty(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,1\n\t\nb,0\n")
    assert load_rows([str(tmp_path / "a.csv")])["text"][:] == ["a", "b"]


@each(
    ("written", "is_read"),
    [(b"[]", True), (b'{"info": []}', True), (b"null", False), (b"{", False), (b'{"info": {"features": []}}', False)],
)
def test_what_others_wrote_of_a_files_columns_is_no_traceback(tmp_path, written, is_read):
    table = pa.table({"text": ["a"]}).replace_schema_metadata({"huggingface": written})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    if is_read:
        assert len(load_rows([str(tmp_path / "a.parquet")])) == 1
    else:
        with pytest.raises(ValueError, match=r"^train_data='.*a.parquet' is empty or unreadable"):
            load_rows([str(tmp_path / "a.parquet")])
