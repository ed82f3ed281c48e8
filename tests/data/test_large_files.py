"""Files that unpack to much more than they hold, and lines that fill memory."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_files import write

from homodistil_hf.data.corpus import load_text
from homodistil_hf.evaluation.own_labels import rows_of
from homodistil_hf.evaluation.own_task import OwnTaskSettings
from homodistil_hf.evaluation.task_data import load_glue

pytestmark = pytest.mark.usefixtures("offline")


def write_bomb(path, *, value="a" * (1 << 20), num_rows=2000):
    """2 GB in some kB: the rows of one value, which is stored once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = pa.DictionaryArray.from_arrays(pa.array([0] * num_rows, pa.int32()), pa.array([value]))
    pq.write_table(pa.table({"text": text}), path, compression="zstd")
    return path


def test_a_long_first_row_is_no_sign_of_a_bomb(tmp_path):
    rows = ["w1 " * 43_000, *(f"w{number}" for number in range(100_000))]
    file = write(tmp_path / "a.parquet", {"text": rows})
    assert len(rows[0]) * len(rows) > max(1 << 30, 1000 * file.stat().st_size)
    assert len(load_text(file)) == len(rows)
    words = pa.array(rows[1:]).dictionary_encode()  # a column of categories: each row refers to all of them
    assert len(load_text(write(tmp_path / "c.parquet", {"text": words}))) == len(words)
    lists = {"words": [["w1"] * 50_000, *([["w2"]] * 100_000)], "text": ["w1"] * 100_001}
    assert len(load_text(write(tmp_path / "b.parquet", lists))) == 100_001


def test_a_bomb_is_counted_no_further_than_to_its_bound(tmp_path, monkeypatch):
    bomb = write_bomb(tmp_path / "bomb.parquet", num_rows=100_000)  # 100 GB
    read, iter_batches = [], pq.ParquetFile.iter_batches

    def counted(*args, **kwargs):
        for batch in iter_batches(*args, **kwargs):
            read.append(batch.num_rows)  # of 1 MB
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    with pytest.raises(ValueError, match=r"bomb.parquet of [\d,]+ bytes would unpack to some 104,8\d\d,\d+,\d+; exp"):
        load_text(bomb)
    assert max(read) <= 256
    assert sum(read) <= 1 + 1024 + 256


def test_a_parquet_file_that_unpacks_to_gigabytes_is_refused(tmp_path):
    bomb = write_bomb(tmp_path / "bomb.parquet")
    assert bomb.stat().st_size < 10_000
    with pytest.raises(
        ValueError, match=r"^train_data='.*': bomb.parquet of [\d,]+ bytes would unpack to some 2,09\d,"
    ):
        load_text(bomb)
    with pytest.raises(
        ValueError, match="bomb.parquet of .*; expected at most 1,000 times as many: it repeats itself"
    ):
        load_text(tmp_path)


def test_different_rows_that_pack_well_are_refused_too(tmp_path, monkeypatch):
    """Their columns say themselves how large they are."""
    monkeypatch.setattr("homodistil_hf.data.corpus._UNPACKED_BYTES", 1 << 20)
    rows = [f"{number}" + "a" * (1 << 20) for number in range(9)]
    pq.write_table(pa.table({"text": rows}), tmp_path / "rows.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(
        ValueError, match=r"rows.parquet of [\d,]+ bytes would unpack to some 9,437,\d+; expected at most"
    ):
        load_text(tmp_path / "rows.parquet")


def test_a_bomb_beside_a_column_that_no_reader_takes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("homodistil_hf.data.corpus._UNPACKED_BYTES", 1 << 20)
    maps = pa.array([[("a", 1)]] * 200, pa.map_(pa.string(), pa.int32()))
    write(tmp_path / "rte/train.parquet", {"sentence1": ["a" * 100_000] * 200, "x": maps})
    write(tmp_path / "rte/validation.parquet", {"sentence1": ["one"]})
    with pytest.raises(ValueError, match=r"^file='.*train.parquet of .* would unpack to some 20,0\d\d,\d+; expected"):
        load_glue("rte", tmp_path)


def test_labelled_rows_that_unpack_to_gigabytes_are_refused(tmp_path):
    bomb = write_bomb(tmp_path / "rte/train.parquet")
    write_bomb(tmp_path / "rte/validation.parquet")
    settings = {"model": "any", "train_data": str(bomb), "eval_data": str(bomb), "output_dir": str(tmp_path / "run")}
    with pytest.raises(ValueError, match="^train_data='.*train.parquet of .* would unpack to some 2,"):
        rows_of(OwnTaskSettings(**settings))
    with pytest.raises(ValueError, match="^file='.*train.parquet of .* would unpack to some 2,"):
        load_glue("rte", tmp_path)


def test_many_equal_rows_of_ordinary_size_are_read(tmp_path):
    assert len(load_text(write_bomb(tmp_path / "rows.parquet", value="word " * 20, num_rows=100_000))) == 100_000


@pytest.mark.parametrize(
    ("name", "content", "start"),
    [
        ("a.txt", "word " * 500, "0"),
        ("a.txt", "short\n\n" * 200 + "word " * 500, "1,400"),
        ("a.jsonl", '{"text": "short"}\n' * 200 + json.dumps({"text": "word " * 500}) + "\n", "3,600"),
    ],
)
def test_a_line_that_fills_memory_is_refused(tmp_path, monkeypatch, name, content, start):
    monkeypatch.setattr("homodistil_hf.data.corpus._LONGEST_LINE_BYTES", 1000)
    write(tmp_path / name, content)
    with pytest.raises(ValueError, match=f": {name} has a line of more than 1,000 bytes behind byte {start}; end doc"):
        load_text(tmp_path / name)


def test_lines_up_to_the_longest_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("homodistil_hf.data.corpus._LONGEST_LINE_BYTES", 1000)
    write(tmp_path / "a.txt", ("w" * 999 + "\n") * 3 + "\n" + "w" * 1000)
    assert [len(row["text"]) for row in load_text(tmp_path / "a.txt")] == [2999, 1000]
