"""Both tables of smaller vocabularies on tiny models, and the page that has those of the record."""

import json

from tiny_files import own_cache, write_config

from benchmarks import vocabulary
from benchmarks.marked_pages import filled
from benchmarks.vocabulary import PAGE, RESULTS, TABLES
from homodistil_hf.cli import main
from homodistil_hf.files.strict_json import read_json_object, write_json


def test_vocabularies_and_students_are_measured(tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(vocabulary, "RESULTS", tmp_path / "record.json")
    monkeypatch.setattr(vocabulary, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- table -->\n<!-- /table -->\n<!-- students -->\n<!-- /students -->\n")
    whole = write_config(tmp_path, output_dir=str(tmp_path / "whole"))
    assert main(["distill", str(whole)]) == 0
    trimmed = write_config(tmp_path, output_dir=str(tmp_path / "trimmed"), vocabulary="keep=40")
    assert main(["distill", str(trimmed)]) == 0
    held_out = ["--held_out", str(tmp_path / "eval.txt")]
    words = ["--model", str(tmp_path / "teacher"), "--text", str(tmp_path / "train.txt"), "--vocabularies", "keep=40"]
    vocabulary.main(["table", *words, *held_out])
    runs = ["--trimmed", str(tmp_path / "trimmed"), "--whole", str(tmp_path / "whole")]
    for name, score in (("trimmed", 0.5), ("whole", 0.75)):
        (tmp_path / name / "evaluations").mkdir()
        write_json(
            tmp_path / name / "evaluations" / "rte.seed-0.json",
            {"score": score, "conditions": {}, "num_train_rows": 8},
        )
    measured = ["--max_eval_blocks", "8", "--max_seq_length", "16", "--tasks", "rte"]
    vocabulary.main(["students", *runs, *held_out, *measured])
    record = json.loads((tmp_path / "record.json").read_text())
    (row,) = record["table"]
    assert 0 < row["coverage"] < 1
    assert row["growth"] == 0  # words that are gone become one unknown token
    assert row["saved_parameters"]["teacher"] == (96 - 40) * 33
    students = record["students"]
    assert set(students) == {"trimmed first", "trimmed afterwards", "not trimmed"}
    assert all(students[name]["kl"] > 0 for name in ("trimmed first", "trimmed afterwards"))
    assert (students["trimmed first"]["glue_mean"], students["not trimmed"]["glue_mean"]) == (0.5, 0.75)
    sizes = {name: found["size_bytes"] for name, found in students.items()}
    assert sizes["trimmed first"] < sizes["not trimmed"]
    assert (tmp_path / "page.md").read_text().count("|") > 20


def test_the_page_has_the_tables_of_the_record():
    record, page = read_json_object(RESULTS, "record"), PAGE.read_text(encoding="utf-8")
    for name in TABLES.keys() & record.keys():
        assert filled(page, name, TABLES[name](record[name])) == page
