"""Documents from files of every kind, from folders and globs, and what goes wrong with them."""

import json
import os
import zipfile

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import BOTH, json_lines, texts, write
from datasets.exceptions import DatasetNotFoundError
from rows import each

from homodistil_hf.data.corpus import hold_out, load_text

pytestmark = pytest.mark.usefixtures("offline")


@BOTH
def test_text_files_hold_documents_between_empty_lines(tmp_path, streaming):
    file = write(tmp_path / "a.txt", "one\nstill one\n\ntwo\r\nstill two\r\n\r\n\n\n\nthree")
    assert [t.strip() for t in texts(file, streaming=streaming)] == ["one\nstill one", "two\nstill two", "three"]


@BOTH
def test_hostile_bytes_become_replacement_characters(tmp_path, streaming):
    file = write(tmp_path / "a.txt", b"a \xff\xfe b\x00c\n\n\xe2\x82")
    assert texts(file, streaming=streaming) == ["a \ufffd\ufffd b\x00c", "\ufffd"]
    file = write(tmp_path / "a.jsonl", b'{"text": "a \xff b \\u0000"}\n')
    assert texts(file, streaming=streaming) == ["a \ufffd b \x00"]


@BOTH
@pytest.mark.parametrize(
    "name, content",
    [
        ("a.jsonl", json_lines({"text": "one", "n": 1}, {"text": None, "n": 2}, {"text": "two", "n": 3})),
        ("a.json", json.dumps([{"text": "one"}, {"text": None}, {"text": "two"}])),
        ("a.parquet", {"id": [1, 2, 3], "text": ["one", None, "two"]}),
        ("A.PARQUET", {"text": pa.array(["one", None, "two"], pa.large_string())}),
    ],
)
def test_rows_are_documents_and_may_be_missing(tmp_path, streaming, name, content):
    file = tmp_path / name
    if isinstance(content, dict):
        pq.write_table(pa.table(content), file)
    else:
        write(file, content)
    assert texts(str(file), streaming=streaming) == ["one", None, "two"]


@BOTH
def test_files_of_words_are_read_as_they_are_written(tmp_path, streaming):
    write(tmp_path / "a.csv", 'id,text\n7,"one, two"\n008,null\nx,\n,007\n')
    write(tmp_path / "b.tsv", "text\tn\n12\t1\n13\t2\n")
    write(tmp_path / "c.tsv", "n\ttext\n1\ta,b\n")
    assert texts(tmp_path, streaming=streaming) == ["one, two", "null", "", "007", "12", "13", "a,b"]


@BOTH
def test_sequences_follow_each_other_whatever_their_kinds_and_columns(tmp_path, streaming):
    sources = [
        write(tmp_path / "a.parquet", {"text": ["one"], "title": ["x"]}),
        str(write(tmp_path / "b.txt", "two\n\nthree")),
        write(tmp_path / "c.jsonl", json_lines({"text": "four", "n": 1})),
        write(tmp_path / "d.parquet", {"text": pa.array(["five"], pa.large_string())}),
    ]
    assert texts(sources, streaming=streaming) == ["one", "two", "three", "four", "five"]


def test_home_folder_and_relative_paths(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "one")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert texts("~/a.txt") == texts("a.txt") == texts("./a.txt") == ["one"]


@BOTH
def test_names_that_look_like_patterns_are_taken_literally(tmp_path, streaming):
    file = write(tmp_path / ".hidden" / "a[1]" / "b*.txt", "one")
    assert texts(file, streaming=streaming) == ["one"]


@BOTH
def test_a_link_is_read_by_its_own_name_as_in_the_hubs_cache(tmp_path, streaming):
    write(tmp_path / "blobs" / "0a1b", "one")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "a.txt").symlink_to("../blobs/0a1b")
    assert texts(tmp_path / "snapshot", streaming=streaming) == ["one"]


@BOTH
def test_text_column_is_found_or_chosen(tmp_path, streaming):
    only = write(tmp_path / "only.parquet", {"n": [1], "sentence": ["one"]})
    assert texts(only, streaming=streaming) == ["one"]
    two = write(tmp_path / "two.parquet", {"text": ["one"], "title": ["two"]})
    assert texts(two, streaming=streaming) == ["one"]
    assert texts(two, streaming=streaming, text_column="title") == ["two"]


@BOTH
@pytest.mark.parametrize(
    "columns, text_column, message",
    [
        ({"n": [1]}, None, r"missing text column .*text_column=None.*n \(int64\)"),
        ({"a": ["x"], "b": ["y"]}, None, r"missing text column .*a \(string\), b \(string\)"),
        ({"text": ["x"]}, "body", r"missing text column .*text_column='body'.*text \(string\)"),
        ({"text": [1.5], "title": ["x"]}, None, r"column 'text' holds float64, expected strings; .*\['title'\]"),
        ({"text": [["x"]]}, None, r"column 'text' holds List, expected strings; .*\[\]"),
        (json_lines({"text": 1}, {"text": 2}), None, "column 'text' holds int64, expected strings"),
        (json_lines({"text": "a"}, {"text": 2}), None, "column 'text' holds Json, expected strings"),
    ],
)
def test_wrong_columns_are_refused(tmp_path, streaming, columns, text_column, message):
    file = write(tmp_path / ("a.parquet" if isinstance(columns, dict) else "a.jsonl"), columns)
    with pytest.raises(ValueError, match=rf"^train_data='.*{file.name}'.*{message}"):
        load_text(file, text_column=text_column, streaming=streaming)


@BOTH
@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"", r"is an empty data set \(0 bytes in 1 files\)"),
        ("a.txt", b"\n\n\n\n", r"is an empty data set \(0 rows\)"),
        ("a.jsonl", b"", r"is an empty data set \(0 bytes in 1 files\)"),
        ("a.jsonl", b"\n\n", r"is an empty data set \(0 rows\)"),
        ("a.json", b"[]", r"is an empty data set \(0 rows\)"),
        ("a.csv", b"text,label\n", r"is an empty data set \(0 rows\)"),
        ("a.csv", b"text,n\na,1\nb, c,2\n", "line 3 of a.csv has 3 cells"),
        ("a.parquet", {"text": pa.array([], pa.string())}, r"is an empty data set \(0 rows\)"),
        ("a.jsonl", b'{"text": "abc"}\n{"text": "ab', "line 2 of a.jsonl is no JSON: Unterminated"),
        ("a.jsonl", b'{"text": "abc"}\n\n[1]\n', r"line 3 of a.jsonl is '\[1\]'; expected an object a line"),
        ("a.json", b'{"text": "\\ud800"}', "is empty or unreadable; .*surrogate"),
        ("a.parquet", b"PAR1 but not really", "is empty or unreadable; expected .* whose contents match the ext"),
    ],
)
def test_empty_and_broken_files_are_refused(tmp_path, streaming, name, content, message):
    file = tmp_path / name
    file.write_bytes(content) if isinstance(content, bytes) else write(file, content)
    with pytest.raises(ValueError, match=rf"^eval_data='.*{name}':? .*({message})"):
        load_text(file, streaming=streaming, argument="eval_data")


@BOTH
def test_files_of_one_glob_may_share_the_one_column(tmp_path, streaming):
    write(tmp_path / "x" / "a.parquet", {"text": ["one"], "title": ["x"]})
    write(tmp_path / "x" / "b.parquet", {"n": [1], "text": pa.array(["two"], pa.large_string())})
    write(tmp_path / "x" / "c.parquet", {"text": ["three"], "title": [4]})
    assert texts(f"{tmp_path}/x/*.parquet", streaming=streaming) == ["one", "two", "three"]
    write(tmp_path / "x" / "d.jsonl", json_lines({"text": "four", "n": 1}))
    write(tmp_path / "x" / "e.jsonl", json_lines({"text": "five", "title": "x"}))
    assert texts(tmp_path / "x", streaming=streaming) == ["one", "two", "three", "four", "five"]
    write(tmp_path / "x" / "f.parquet", {"title": ["x"], "n": [1]})
    with pytest.raises(ValueError, match=r"missing text column \(text_column='text'\)"):
        load_text(f"{tmp_path}/x/*.parquet", text_column="text", streaming=streaming)


def test_a_file_without_rows_is_left_out_and_columns_of_two_types_are_refused(tmp_path):
    write(tmp_path / "stream" / "a.csv", "text\n")
    write(tmp_path / "stream" / "b.jsonl", json_lines({"text": "w5 w6"}))
    assert texts(tmp_path / "stream", streaming=True) == ["w5 w6"]
    write(tmp_path / "a.jsonl", json_lines({"text": "one", "n": 1}))
    write(tmp_path / "b.jsonl", json_lines({"text": "two", "n": "x"}))
    with pytest.raises(ValueError, match=r"columns of the same types in all files .*\(others can be listed\)"):
        load_text(f"{tmp_path}/*.jsonl")
    assert texts([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]) == ["one", "two"]


@BOTH
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_wide_encodings_are_refused(tmp_path, streaming, encoding, name):
    file = write(tmp_path / name, json_lines({"text": "one"}).encode(encoding))
    with pytest.raises(ValueError, match=rf"eval_data='.*{name}': {name} is UTF-16, UTF-32 or no text; expected"):
        load_text(file, streaming=streaming, argument="eval_data")


@BOTH
def test_byte_order_marks_are_no_text(tmp_path, streaming):
    rows = json_lines({"text": "one"}, {"text": "two"})
    for name, content in {
        "a.txt": "one\n\ntwo",
        "a.jsonl": rows,
        "a.json": '[{"text": "one"}, {"text": "two"}]',
        "a.csv": "text,n\none,1\ntwo,2\n",
    }.items():
        assert texts(write(tmp_path / name, content.encode("utf-8-sig")), streaming=streaming) == ["one", "two"]


@pytest.mark.slow
def test_documents_with_replaced_bytes_are_counted(tmp_path, caplog):
    file = write(tmp_path / "a.txt", "größe\n\nplain\n\nmaß".encode("latin-1"))
    other = write(tmp_path / "b.parquet", {"text": ["\ufffd"]})
    assert texts([file, other]) == ["gr\ufffd\ufffde", "plain", "ma\ufffd", "\ufffd"]
    assert f"train_data='{file}', '{other}': 2 of 3 documents hold U+FFFD, usually a sign of" in caplog.text
    caplog.clear()
    texts([file, other], streaming=True)
    assert f"train_data='{file}', '{other}': 2 of 3 documents hold U+FFFD, usually a sign of" in caplog.text
    caplog.clear()
    assert texts(write(tmp_path / "c.jsonl", b'{"text": "a \xff"}\n{"text": null}\n')) == ["a \ufffd", None]
    assert "1 of 2 documents hold U+FFFD" in caplog.text
    caplog.clear()
    texts([write(tmp_path / "many" / f"{number:02}.txt", b"\xff") for number in range(50)])
    (line,) = caplog.messages
    assert "02.txt' and 47 more: 50 of 50 documents hold U+FFFD, usually a sign of another encoding; " in line
    caplog.clear()
    texts(write(tmp_path / "d.txt", "größe"))
    assert caplog.text == ""


@BOTH
@pytest.mark.parametrize("folder", ["file/cache", "file"])
def test_a_cache_that_can_not_be_written_is_named(tmp_path, monkeypatch, folder, streaming):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / folder)
    file = write(tmp_path / "a.txt", "one")
    with pytest.raises(ValueError, match=rf"^cache='.*{folder}' can't be written \(.*\); name another folder"):
        load_text(file, streaming=streaming)


@pytest.mark.parametrize("name", ["a.md", "a.txt.gz", "a"])
def test_unknown_extensions_are_refused(tmp_path, name):
    file = write(tmp_path / name, "x")
    with pytest.raises(
        ValueError, match=rf"train_data='.*{name}': {name} has the unknown extension .*convert it to .par"
    ):
        load_text(file)


@each(
    "source", ["missing.txt", "missing.csv", "./missing", "/missing/folder", "a/b/c", "no*.txt", "~/missing/x", "a b"]
)
def test_missing_files_are_refused_without_asking_the_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"eval_data='.*' does not exist; expected a file, folder or glob"):
        load_text(source, argument="eval_data")


@each("source", [[], {}, None, 3])
def test_sources_that_name_nothing_are_refused(source):
    with pytest.raises(
        ValueError, match=r"train_data=.* names no text; expected a file, folder, glob or Hub data set"
    ):
        load_text(source)
    with pytest.raises(ValueError, match=r"^train_data=\[.{,100}, \.\.\.\] names no text"):
        load_text(["a.txt"] * 100_000 + [source])
    for name in ("", " "):  # not the current folder
        with pytest.raises(ValueError, match=r"train_data=' ?' is empty; expected a file"):
            load_text(name)


def test_a_changed_file_is_read_again(tmp_path):
    file = write(tmp_path / "a.txt", "one")
    assert texts(file) == ["one"]
    write(file, "two")
    os.utime(file, (1, 1))
    assert texts(file) == ["two"]


@pytest.fixture
def hub(monkeypatch):
    """Stands for the Hub: records what is asked for and answers with two documents, or raises `hub.error`."""

    class Hub:
        def __init__(self):
            self.calls, self.error = [], None
            self.dataset = datasets.Dataset.from_dict({"sentence": ["one", "two"], "label": [0, 1]})

        def __call__(self, *args, **kwargs):
            self.calls.append((args, kwargs))
            if self.error is not None:
                raise self.error
            is_table = isinstance(self.dataset, datasets.Dataset)
            return self.dataset.to_iterable_dataset() if is_table and kwargs["streaming"] else self.dataset

    hub = Hub()
    monkeypatch.setattr(datasets, "load_dataset", hub)
    return hub


@BOTH
@each(
    "source, name, config",
    [
        ("wikitext", "wikitext", None),
        ("Salesforce/wikitext:wikitext-103-raw-v1", "Salesforce/wikitext", "wikitext-103-raw-v1"),
        ("owner/set_v2.1:en.realnewslike", "owner/set_v2.1", "en.realnewslike"),
    ],
)
def test_hub_names(hub, source, name, config, streaming):
    assert texts(source, split="validation", streaming=streaming) == ["one", "two"]
    assert hub.calls[-1] == ((name, config), {"split": "validation", "streaming": streaming})


def test_hub_streams_that_declare_no_columns(hub):
    rows = [{"n": 1, "body": "one"}, {"n": 2, "body": None}]
    hub.dataset = datasets.IterableDataset.from_generator(lambda: iter(rows))
    assert texts("owner/name", streaming=True) == ["one", None]
    with pytest.raises(ValueError, match=r"column 'n' holds int, expected strings"):
        load_text("owner/name", streaming=True, text_column="n")


@pytest.mark.parametrize(
    "error",
    [
        DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub or cannot be accessed."),
        ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)"),
        ValueError("BuilderConfig 'x' not found. Available: ['a', 'b']"),
        RuntimeError("Dataset scripts are no longer supported, but found name.py"),
    ],
)
def test_errors_of_the_hub_name_the_argument_and_the_reason(hub, error):
    hub.error = error
    with pytest.raises(
        ValueError, match=r"^eval_data='owner/name' is no local file .*owner/name:configuration"
    ) as caught:
        load_text("owner/name", argument="eval_data")
    assert str(error) in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_local_folder_wins_over_a_hub_name(hub, tmp_path, monkeypatch):
    write(tmp_path / "owner" / "name" / "a.txt", "local")
    monkeypatch.chdir(tmp_path)
    assert texts("owner/name") == ["local"]
    assert hub.calls == []
    assert texts([write(tmp_path / "a.txt", "zero"), "other/name"]) == ["zero", "one", "two"]


def test_an_archive_behind_text_is_not_unpacked(tmp_path):
    (tmp_path / "a.txt").write_text("w7 w8\n")
    with zipfile.ZipFile(tmp_path / "a.txt", "a") as archive:
        archive.writestr("inner.txt", "w9")
    with pytest.raises(ValueError, match="a.txt is a zip archive under another name; unpack it first"):
        load_text(tmp_path / "a.txt")


def test_text_files_may_hold_a_document_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n  \nthree\n")
    for streaming in (False, True):
        documents = load_text(tmp_path / "a.txt", line_by_line=True, streaming=streaming)
        assert [row["text"] for row in documents] == ["one", "two", "three"]
    (tmp_path / "b.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(ValueError, match="has 1 document of 3 lines, as an empty line parts documents: set line_by_l"):
        hold_out(load_text(tmp_path / "b.txt"))


def test_columns_that_are_not_read_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,body,source\n1,a,b\n")
    assert load_text(tmp_path / "a.csv", text_column="body").info.description == "read: body; not read: id, source"
    (tmp_path / "a.txt").write_text("a")
    assert load_text(tmp_path / "a.txt", streaming=True).info.description == "read: text"


@BOTH
def test_strings_by_their_places_are_text(tmp_path, streaming):
    table = pa.table({"text": pa.array(["one", None], pa.string_view()), "n": [1, 2]})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as opened:
        opened.write_table(table)
    other = write(tmp_path / "b.jsonl", b'{"text": "two"}\n')
    assert texts([tmp_path / "a.arrow", other], streaming=streaming) == ["one", None, "two"]
