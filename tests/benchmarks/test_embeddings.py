"""The benchmark of embedding models on a tiny one: rows that are there stay, the page gets its table."""

import json
import sys

import pytest
from datasets import Dataset
from tiny_embeddings import make_sentence_folder
from tiny_files import own_cache
from tiny_glue import write_task

from benchmarks import embeddings
from benchmarks.marked_pages import filled
from homodistil_hf.methods.embedding.model import load_embedding_model
from homodistil_hf.methods.embedding.trainer import EmbeddingDistilTrainer


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the benchmark on tiny files with arms and further words; gives the record's rows."""
    own_cache(monkeypatch, tmp_path / "cache")
    model, data = make_sentence_folder(tmp_path / "model"), tmp_path / "data"
    write_task(data / "glue", "stsb")
    for corpus in ("wikipedia", "books"):
        (data / "corpora" / corpus).mkdir(parents=True)
        for split in ("train", "validation"):
            text = "\n".join(f"W{i} w{i + 1} w{i + 2} w7 w8. W9 w10 w{i} w5 w6 w7 w8." for i in range(10, 60))
            Dataset.from_dict({"text": [text]}).to_parquet(str(data / "corpora" / corpus / f"{split}.parquet"))
    monkeypatch.setattr(embeddings, "RECORD", tmp_path / "rows.jsonl")
    monkeypatch.setattr(embeddings, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(
        "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("students", "terms", "rates"))
    )
    own = embeddings.run_of
    small = {
        "max_seq_length": 12,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "bf16": False,
        "width_multiple": 1,
    }
    monkeypatch.setattr(embeddings, "run_of", lambda values, label: own(values | small, label))
    words = ["--model", str(model), "--data", str(data), "--steps", "3", "--output_dir", str(tmp_path / "runs")]
    monkeypatch.setattr(embeddings, "BATCH_SIZE", 8)
    monkeypatch.setattr(embeddings, "MAX_LENGTH", 10)

    def run(*arms):
        monkeypatch.setattr(sys, "argv", ["embeddings", *words, "--macs", "0.5", "--arms", *arms])
        embeddings.main()
        return list(embeddings.rows_of(tmp_path / "rows.jsonl"))

    return run


def test_rows_are_measured_once_and_told(run, tmp_path):
    (row,) = run("width")
    assert (row["arm"], row["steps"]) == ("width", 3)
    assert 0.4 < row["kept_macs"] <= 0.55
    assert str(tmp_path) not in json.dumps(row)
    train = (tmp_path / "runs" / "train.txt").read_text().split("\n\n")
    assert len(train) == 200  # two sentences a line
    page = (tmp_path / "page.md").read_text()
    assert f"| width | 0.0005 | 3 | {100 * row['stsb']:.1f} |" in page
    assert len(run("width")) == 1  # nothing left to do


def test_the_librarys_students_are_measured_alike(run, monkeypatch, tmp_path):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setitem(embeddings.ARMS, "library, layers 0 1 5", {"library": [0]})  # of two
    layers, drawn = run("library, layers 0 1 5", "library, random weights")
    assert layers["kept_macs"] == 0.5
    assert 0.4 < drawn["kept_macs"] <= 0.55
    assert drawn["num_parameters"] < layers["num_parameters"]
    assert all(abs(row["agreement"]["cosine"]) <= 1 for row in (layers, drawn))
    student, teacher = (load_embedding_model(tmp_path / path) for path in ("runs/library", "model"))
    assert student.settings.max_seq_length == teacher.settings.max_seq_length


def test_the_map_is_fitted_when_it_is_said(run):
    found = run("vectors alone", "vectors alone, map not fitted", "vectors alone, map fitted at the start alone")
    assert len({row["agreement"]["cosine"] for row in found}) == 3


def test_a_student_pruned_gradually_has_the_same_widths_later(run, monkeypatch):
    steps, resized = [], EmbeddingDistilTrainer.on_resized

    def noted(self, masks):
        steps.append(self.state.global_step)
        resized(self, masks)

    monkeypatch.setattr(EmbeddingDistilTrainer, "on_resized", noted)
    at_once, gradually = run("vectors alone", "vectors alone, gradually")
    assert at_once["num_parameters"] == gradually["num_parameters"]
    assert steps == [0, 1]


def test_the_page_tells_what_was_recorded():
    page = embeddings.PAGE.read_text()
    for name, table in embeddings.tables(embeddings.rows_of(embeddings.RECORD)).items():
        assert filled(page, name, table) == page
