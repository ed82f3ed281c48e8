"""The ladder, narrow students and the kernel on tiny models; and the page that has the record's tables."""

import json

import pytest
from tiny_files import own_cache, write_config, write_teacher
from tiny_glue import write_task
from tiny_models import make_teacher

from benchmarks import binarization
from benchmarks.binarization import (
    PAGE,
    RUNGS,
    bits_table,
    kernel_table,
    known_results,
    ladder_table,
    main,
    narrow_table,
)
from benchmarks.marked_pages import filled
from homodistil_hf.cli import main as homodistil


@pytest.fixture
def page(tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    for name, file in (("RECORD", "record.json"), ("PAGE", "page.md"), ("PICTURE", "picture.png")):
        monkeypatch.setattr(binarization, name, tmp_path / file)
    names = ("narrow", "ladder", "bits", "kernel")
    (tmp_path / "page.md").write_text("".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in names))
    return tmp_path / "page.md"


def test_ladder_and_narrow_students_are_measured_row_by_row(tmp_path, page):
    write_config(tmp_path)
    write_teacher(tmp_path / "teacher", max_position_embeddings=128)
    assert homodistil(["distill", str(tmp_path / "config.json")]) == 0
    for task, num_labels in (("sst2", 2), ("stsb", 1)):
        write_task(tmp_path, task)
        config = {"max_position_embeddings": 128, "num_labels": num_labels}
        make_teacher("sequence_classification", **config).save_pretrained(tmp_path / "work" / task)
    words = ["--data_dir", str(tmp_path), "--work_dir", str(tmp_path / "work"), "--model", str(tmp_path / "teacher")]
    words += ["--tasks", "sst2", "stsb", "--max_train_steps", "2"]
    main(["ladder", *words, "--seeds", "0"])
    rows = known_results()["ladder"]
    assert [row["rung"] for row in rows.values()] == [*RUNGS] * 2
    (tmp_path / "record.json").write_text(json.dumps(known_results() | {"was_here": True}))
    main(["ladder", *words, "--seeds", "0"])
    assert known_results()["was_here"]
    main(["bits", *words, "--activation_bits", "1", "4"])
    bits = known_results()["bits"]
    assert list(bits) == [f"{task}, {number} bits, 2 steps" for task in ("sst2", "stsb") for number in (1, 4)]
    assert bits["sst2, 1 bits, 2 steps"]["score"] == rows["sst2, + elastic, seed 0"]["score"]
    assert bits_table(bits) in page.read_text()
    main(["narrow", *words, "--student", str(tmp_path / "run" / "student")])
    found = known_results()["narrow"]
    assert set(found) == {"sst2, full", "sst2, narrow", "stsb, full", "stsb, narrow"}
    assert found["sst2, narrow"]["float_bytes"] < found["sst2, full"]["float_bytes"]
    assert (tmp_path / "picture.png").is_file()
    assert narrow_table(found) in page.read_text()
    assert ladder_table(rows) in page.read_text()


def test_a_ladder_tells_spreads_and_what_is_kept():
    def row(rung, task, score):
        return {"rung": rung, "task": task, "score": score, "float": {"sst2": 0.8, "mrpc": 0.4}[task]}

    rows = {
        "a": row("+ elastic", "sst2", 0.38),
        "b": row("+ elastic", "sst2", 0.42),
        "c": row("+ elastic", "mrpc", 0.2),
        "d": row("+ two sets", "mrpc", 0.1),
    }
    assert ladder_table(rows).splitlines()[2:] == [
        "| float | 80.0 | 40.0 | 100.0% |",
        "| one set, one step | – | – | – |",
        "| + two sets | – | 10.0 | – |",
        "| + elastic | 40.0 ± 2.8 (2) | 20.0 | 50.0% |",
        "| + multi-distillation | – | – | – |",
    ]


def test_scores_are_told_from_most_bits_to_least():
    rows = {
        str(place): {"task": "stsb", "bits": bits, "max_train_steps": steps, "score": score, "float": 0.8}
        for place, (bits, steps, score) in enumerate([(1, 3000, 0.3), (1, 600, 0.2), (8, 600, 0.75)])
    }
    assert bits_table(rows).splitlines()[2:] == [
        "| stsb | 8 | 600 | 75.0 | 80.0 |",
        "| stsb | 1 | 600 | 20.0 | 80.0 |",
        "| stsb | 1 | 3,000 | 30.0 | 80.0 |",
    ]


def test_the_kernel_is_timed_beside_float32(page):
    main(["kernel", "--rows", "16", "--num_rounds", "2", "--num_layers", "1"])
    cases = known_results()["kernel"]["cases"]
    assert len(cases) == 4
    assert kernel_table(cases) in page.read_text()


def test_the_page_has_the_tables_of_the_record():
    record, page = known_results(), PAGE.read_text(encoding="utf-8")
    for name, table in (("narrow", narrow_table), ("ladder", ladder_table), ("bits", bits_table)):
        if name in record:
            assert filled(page, name, table(record[name])) == page
    if "kernel" in record:
        assert filled(page, "kernel", kernel_table(record["kernel"]["cases"])) == page
