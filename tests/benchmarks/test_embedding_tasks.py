"""Students of a tiny embedding model on pairs and questions; the page has what was recorded."""

import json
import sys

import torch
from tiny_embeddings import make_sentence_folder
from tiny_files import own_cache
from tiny_glue import write_task
from tiny_models import randomized, tiny_config
from transformers import BertModel

from benchmarks import embedding_tasks
from benchmarks.marked_pages import filled


def test_students_are_measured_alone_and_in_the_teachers_index(tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    for task in ("stsb", "qnli"):
        write_task(tmp_path / "data", task)
    torch.manual_seed(7)
    another = randomized(BertModel(tiny_config()))
    teacher = make_sentence_folder(tmp_path / "teacher")
    student = make_sentence_folder(tmp_path / "student", encoder=another)
    monkeypatch.setattr(embedding_tasks, "RECORD", tmp_path / "tasks.json")
    monkeypatch.setattr(embedding_tasks, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- tasks -->\n<!-- /tasks -->\n")
    words = ["--data", str(tmp_path / "data"), "--students", f"same={teacher}", f"other={student}"]
    monkeypatch.setattr(sys, "argv", ["tasks", "--model", str(teacher), *words])
    embedding_tasks.main()
    found = json.loads((tmp_path / "tasks.json").read_text())["students"]
    same, other = (found[name]["qnli"]["ndcg_at_10"] for name in ("same", "other"))
    assert same["teacher"] == same["student"] == same["asymmetric"] == other["teacher"]
    assert other["asymmetric"] != other["student"]
    assert set(found["other"]["stsb"]["spearman"]) == {"teacher", "student"}
    rows = (tmp_path / "page.md").read_text().splitlines()
    assert any(row.startswith("| stsb, spearman |") and row.endswith("| – |") for row in rows)


def test_the_page_tells_what_was_recorded():
    found = json.loads(embedding_tasks.RECORD.read_text())["students"]
    page = embedding_tasks.PAGE.read_text()
    assert filled(page, "tasks", embedding_tasks.tasks_table(found)) == page
