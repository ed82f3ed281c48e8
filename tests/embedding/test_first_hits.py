"""Queries of one's own: how they are read, what they find first, and what `verify` asks of the bound."""

import json

import pytest
import torch
from datasets import Dataset
from tiny_embeddings import make_sentence_folder
from tiny_files import own_cache

from homodistil_hf.cli import main
from homodistil_hf.embedding.folder import export_embedding_model
from homodistil_hf.embedding.metrics import first_hits
from homodistil_hf.embedding.reading import load_embedding_model
from homodistil_hf.embedding.tasks import load_queries
from homodistil_hf.evaluation.guarantee import largest_share
from homodistil_hf.export.verify import VerifyReport

NUM_QUERIES = 60


@pytest.fixture
def sources(tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    rows = [
        {"question": f"w{10 + number} w{11 + number % 9}", "language": "de" if number % 3 else "en"}
        for number in range(NUM_QUERIES)
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "queries.parquet")
    (tmp_path / "documents.txt").write_text("\n".join(f"w{number} w{number + 1}" for number in range(10, 60, 2)))
    return [str(tmp_path / "queries.parquet")], [str(tmp_path / "documents.txt")]


@pytest.fixture
def folders(tmp_path):
    """A teacher, and an export of nearly the same weights."""
    teacher, other = (load_embedding_model(make_sentence_folder(tmp_path / name)) for name in ("teacher", "other"))
    torch.manual_seed(0)
    for parameter in other.encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return tmp_path / "teacher", export_embedding_model(other, tmp_path / "student", teacher=teacher)


def test_queries_have_groups_and_documents_are_lines(sources):
    task = load_queries(*sources, query_column="question", group_columns=("language",), most=20)
    assert (len(task.queries), len(task.documents), task.answers) == (20, 25, None)
    assert task.queries[1] == "w13 w14"  # every third of all
    assert task.groups == {"language": ["en"] * 20}
    with pytest.raises(ValueError, match=r"^queries=.*missing text column \(group_columns='language'\)"):
        load_queries(sources[1], sources[1], group_columns=("language",))


def test_queries_and_documents_may_be_tables_of_words(sources, tmp_path):
    queries = Dataset.from_parquet(sources[0][0])
    queries.to_csv(tmp_path / "queries.csv", index=False)
    documents = (tmp_path / "documents.txt").read_text().splitlines()
    Dataset.from_dict({"text": documents[20:]}).to_csv(tmp_path / "rest.tsv", sep="\t", index=False)
    (tmp_path / "first.txt").write_text("\n".join(documents[:20]))
    both = [str(tmp_path / "first.txt"), str(tmp_path / "rest.tsv")]
    settings = {"query_column": "question", "group_columns": ("language",)}
    assert load_queries([str(tmp_path / "queries.csv")], both, **settings) == load_queries(*sources, **settings)
    with pytest.raises(ValueError, match=r"^queries=.*queries.csv': missing text column \(query_column='no'\)"):
        load_queries([str(tmp_path / "queries.csv")], both, query_column="no")


def test_lookups_are_by_the_nearest_document():
    vectors = torch.randn(700, 6, generator=torch.Generator().manual_seed(0))
    found = first_hits(vectors[:600], vectors, "cosine")
    assert found.tolist() == list(range(600))
    distances = torch.cdist(vectors[:300].double(), vectors[300:].double())
    assert torch.equal(first_hits(vectors[:300], vectors[300:], "euclidean"), distances.argmin(1))


def test_a_guarantee_is_measured_recorded_and_asked_for(folders, sources, tmp_path, capsys, monkeypatch):
    teacher, student = folders
    queries, documents = sources
    words = ["--queries", *queries, "--documents", *documents, "--query_column", "question"]
    words += ["--group_columns", "language", "--teacher", str(teacher)]
    assert main(["evaluate", str(student), "--task", "embedding", *words]) == 0
    told = capsys.readouterr().out
    facts = json.loads((student / "facts.json").read_text())
    found = facts["benchmarks"]["guarantee"]["queries"]

    task = load_queries(queries, documents, query_column="question")
    both = [load_embedding_model(folder) for folder in (student, teacher)]
    index = both[1].encode(task.documents)
    hits = [(model.encode(task.queries) @ index.T).argmax(1) for model in both]
    num_changed = int((hits[0] != hits[1]).sum())
    assert 0 < num_changed == found["num_changed"] < found["num_rows"] == NUM_QUERIES
    assert found["at_least"] == 1 - largest_share(num_changed, NUM_QUERIES)
    assert set(found["groups"]["language"]) == {"de", "en"}
    row = f"| queries | 60 | {num_changed} |"
    assert row in told
    assert row in (student / "README.md").read_text()

    monkeypatch.setattr("homodistil_hf.methods.formats.verify_export", lambda folder: VerifyReport(folder, (), 0.0))
    bound = found["at_least"]
    assert main(["verify", str(student), "--least", f"agreement={bound - 0.001}"]) == 0
    capsys.readouterr()
    assert main(["verify", str(student), "--least", f"agreement={bound + 0.001}"]) == 1
    assert "queries: expected answers as the teacher's for at least" in capsys.readouterr().err
    assert main(["verify", str(student), "--least", "agreement_of_groups=0.999"]) == 1
    assert "queries, language: de: expected" in capsys.readouterr().err
    assert main(["verify", str(student), "--least", "agreement=all"]) == 2
    assert "expected agreement or agreement_of_groups=SHARE" in capsys.readouterr().err


def test_damaged_records_bound_nothing(folders, capsys, monkeypatch):
    monkeypatch.setattr("homodistil_hf.methods.formats.verify_export", lambda folder: VerifyReport(folder, (), 0.0))
    _, student = folders
    facts = json.loads((student / "facts.json").read_text())
    for measured in ([], {"guarantee": []}, {"guarantee": {"queries": 3}}):
        (student / "facts.json").write_text(json.dumps(facts | {"benchmarks": measured}))
        assert main(["verify", str(student), "--least", "agreement=0.5"]) == 1
        assert "no guarantee is recorded; measure it on held-out rows first" in capsys.readouterr().err


def test_the_teacher_itself_changes_nothing(folders, sources, tmp_path, capsys):
    teacher, _ = folders
    queries, documents = sources
    words = ["--queries", *queries, "--documents", *documents, "--query_column", "question", "--teacher", str(teacher)]
    assert main(["evaluate", str(teacher), "--task", "embedding", *words, "--output_dir", str(tmp_path / "out")]) == 0
    assert "| queries | 60 | 0 | 100.0 | 95.1 |" in capsys.readouterr().out
