"""Folders and globs of text: which files are read, and which split each belongs to."""

from pathlib import Path

import datasets
import pytest
from data_files import BOTH, json_lines, texts, write
from rows import each

from homodistil_hf.data.corpus import load_text

pytestmark = pytest.mark.usefixtures("offline")


def test_globs_are_sorted_and_recursive(tmp_path):
    with pytest.raises(ValueError, match=rf"train_data='{tmp_path}' is a folder without text; expected \.parquet"):
        load_text(tmp_path)
    for name, text in {"b.txt": "two", "a.txt": "one", "deep/er/c.txt": "three", "d.md": "no"}.items():
        write(tmp_path / name, text)
    assert texts(f"{tmp_path}/*.txt") == ["one", "two"]
    assert texts(f"{tmp_path}/**/*.txt") == ["one", "two", "three"]


def test_folders_of_several_kinds_leave_other_files_out(tmp_path):
    write(tmp_path / "x" / "b.parquet", {"text": ["one"]})
    write(tmp_path / "x" / "a.jsonl", json_lines({"text": "two"}))
    write(tmp_path / "x" / "README.md", "no")
    write(tmp_path / "x" / "empty.txt", "")
    assert texts(tmp_path / "x") == ["one", "two"]


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path, caplog):
    for name in ("a.txt", "sheets/b.xlsx", "c.txt.gz", "README.md", ".hidden"):
        write(tmp_path / name, "one")
    assert texts(tmp_path) == ["one"]
    assert ": b.xlsx, c.txt.gz are not read; expected .parquet" in caplog.text
    (tmp_path / "a.txt").unlink()
    with pytest.raises(ValueError, match=r"is a folder without text; .* below it, it holds b\.xlsx, c\.txt\.gz$"):
        load_text(tmp_path)


def test_folders_keep_splits_apart(tmp_path):
    write(tmp_path / "x" / "train-00000.parquet", {"text": ["one"]})
    write(tmp_path / "x" / "train-00001.parquet", {"text": ["two"]})
    write(tmp_path / "x" / "validation.parquet", {"text": ["three"]})
    assert texts(tmp_path / "x") == ["one", "two"]
    assert texts(tmp_path / "x", split="validation") == ["three"]
    assert texts(tmp_path / "x", split="train[:1]") == ["one"]
    with pytest.raises(
        ValueError, match=r"eval_data='.*x' has files for the splits \['train', 'validation'\], not.*'test'"
    ):
        load_text(tmp_path / "x", split="test", argument="eval_data")


def test_folder_names_can_be_splits_but_parts_of_words_are_not(tmp_path):
    write(tmp_path / "x" / "dev" / "a.txt", "one")
    write(tmp_path / "x" / "train" / "a.txt", "two")
    assert texts(tmp_path / "x", split="validation") == ["one"]
    write(tmp_path / "y" / "trainers.txt", "three")
    write(tmp_path / "y" / "latest.txt", "four")
    assert sorted(texts(tmp_path / "y")) == ["four", "three"]


def test_a_text_about_training_is_no_split(tmp_path, caplog):
    write(tmp_path / "x" / "notes on training dogs.txt", "one")
    write(tmp_path / "x" / "other.txt", "two")
    assert texts(tmp_path / "x") == ["one", "two"]
    assert caplog.text == ""


@each("name", ["wiki_validation.txt", "my dev set.txt", "eval-report.txt", "held/out_test/a.txt"])
def test_a_file_to_evaluate_on_is_never_trained_on(tmp_path, caplog, name):
    write(tmp_path / "x" / "wiki.txt", "one")
    write(tmp_path / "x" / name, "two")
    split = "test" if "eval" in name or "test" in name else "validation"
    assert texts(tmp_path / "x", split=split) == ["two"]
    assert "files named after no split are left out, as others are: wiki.txt" in caplog.text
    with pytest.raises(
        ValueError,
        match=rf"has files for the splits \['{split}'\], not for split='train'; name another .* {Path(name).name}$",
    ):
        load_text(tmp_path / "x")


def test_files_of_no_split_beside_splits_are_named(tmp_path, caplog):
    for name in ("train_data.txt", "test_data.txt", "licence.txt"):
        write(tmp_path / "x" / name, name)
    assert texts(tmp_path / "x") == ["train_data.txt"]
    assert "files named after no split are left out, as others are: licence.txt" in caplog.text
    for name in ("train-00000-of-00001-a09b74b3ef9c3b56.parquet", "other.parquet"):
        write(tmp_path / "y" / name, {"text": [name[:5]]})
    assert texts(tmp_path / "y") == ["train"]
    assert "left out, as others are: other.parquet" in caplog.text


def test_what_is_hidden_is_not_read(tmp_path):
    for name in (".b.txt", ".git/c.txt", ".ipynb_checkpoints/a.txt", "__MACOSX/._a.txt", "y/__pycache__/d.txt"):
        write(tmp_path / "x" / name, "no")
    write(tmp_path / "x" / "a.txt", "one")
    assert texts(tmp_path / "x") == texts(f"{tmp_path}/x/**") == ["one"]
    assert texts(tmp_path / "x" / ".git") == ["no"]  # a folder that a user names
    assert texts(f"{tmp_path}/x/.git/*") == texts(f"{tmp_path}/x/__MACOSX/**/.*.txt") == ["no"]
    write(tmp_path / "x" / "__MACOSX" / "a.txt", "no")
    write(tmp_path / "x" / "y" / "a.txt", "two")
    assert texts(f"{tmp_path}/x/*/*.txt") == ["two"]


@each("name", ["__notes.txt", "__data__/a.txt", "__/a.txt", "deep/__init__.jsonl"])
def test_underscores_hide_nothing_but_folders_of_systems(tmp_path, caplog, name):
    write(tmp_path / "x" / name, json_lines({"text": "one"}))
    write(tmp_path / "x" / "b.txt", "two")
    for source in (tmp_path / "x", f"{tmp_path}/x/**"):
        assert len(texts(source)) == 2
    assert caplog.text == ""


@BOTH
def test_folders_of_save_to_disk_are_read(tmp_path, streaming):
    rows = datasets.Dataset.from_dict({"n": [1, 2, 3], "text": ["one", None, "two"]})
    rows.save_to_disk(tmp_path / "x", num_shards=2)
    assert texts(tmp_path / "x", streaming=streaming) == ["one", None, "two"]
    parts = datasets.DatasetDict({"train": rows, "validation": datasets.Dataset.from_dict({"text": ["three"]})})
    parts.save_to_disk(tmp_path / "y")
    before = sorted((tmp_path / "y").rglob("*"))
    assert texts(tmp_path / "y", streaming=streaming) == ["one", None, "two"]
    assert texts(tmp_path / "y", split="validation", streaming=streaming) == ["three"]
    assert sorted((tmp_path / "y").rglob("*")) == before
    write(tmp_path / "y" / "train" / "more.jsonl", json_lines({"text": "four"}))  # beside the records of the saved set
    assert texts(tmp_path / "y", streaming=streaming) == ["one", None, "two", "four"]


@each("name", ["validation/train_0.jsonl", "dev/training_notes.jsonl", "test_split/train_like.jsonl"])
def test_what_lies_in_a_folder_of_held_out_texts_is_never_trained_on(tmp_path, name):
    for file, text in (("train/train_0.jsonl", "one"), (name, "two")):
        write(tmp_path / "x" / file, json_lines({"text": text}))
    assert texts(tmp_path / "x", split="train") == ["one"]
    assert texts(tmp_path / "x", split="test" if "test" in name else "validation") == ["two"]


def test_the_folder_of_a_text_and_not_its_topic_says_what_it_is_for(tmp_path):
    for name in ("train/a.txt", "train/test_driven.txt", "train/val_aosta.txt", "validation/a.txt"):
        write(tmp_path / "x" / name, name)
    assert len(texts(tmp_path / "x", split="train")) == 3
    assert texts(tmp_path / "x", split="validation") == ["validation/a.txt"]
