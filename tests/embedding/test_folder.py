"""Exports of embedding models: verified in sentence-transformers, damaged ones told, pairs of student and teacher."""

import importlib.util
import json
import shutil
import sys

import pytest
import torch
from commands import error_of
from rows import each
from tiny_embeddings import make_sentence_folder, write
from tiny_files import change_json
from tiny_models import randomized, tiny_config
from transformers import BertModel

import homodistil_hf.embedding.folder
from homodistil_hf.cli import main
from homodistil_hf.embedding.folder import export_embedding_model, export_pair
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.export.facts import file_facts
from homodistil_hf.methods.formats import verify_export

needs_library = pytest.mark.skipif(
    not importlib.util.find_spec("sentence_transformers"),
    reason="sentence-transformers is not installed",
)


@pytest.fixture
def teacher(tmp_path):
    prompts = {"prompts": {"query": "w5 "}, "default_prompt_name": "query", "similarity_fn_name": "cosine"}
    return make_sentence_folder(tmp_path / "teacher", dense=5, **prompts)


@pytest.fixture
def export(teacher, tmp_path):
    model = load_embedding_model(teacher)
    return export_embedding_model(model, tmp_path / "run" / "student", teacher=model)


@pytest.mark.slow
@needs_library
def test_all_is_well(export, capsys):
    report = verify_export(export)
    assert report.ok, report.problems
    assert 0 <= report.max_relative_difference < 1e-5
    assert main(["verify", str(export)]) == 0
    assert "all is well; largest relative difference of vectors" in capsys.readouterr().out


@pytest.mark.slow
@needs_library
def test_other_vectors_and_settings_are_told(export):
    facts = json.loads((export / "facts.json").read_text())
    facts["probe"]["vectors"]["query"][0][0] += 0.5
    facts["settings_of_vectors"] |= {"max_seq_length": 7, "prompts": {"query": "other"}}
    write(export / "facts.json", facts)
    problems = verify_export(export).problems
    assert problems[:2] == (
        "max_seq_length: expected 7, found 12",
        "prompts: expected {'query': 'other'}, found " + problems[1].rpartition("found ")[2],
    )
    assert "query vectors: expected a relative difference of at most 0.0001, found 0.5" in problems[2]


def test_files_come_first(export):
    (export / "1_Pooling" / "config.json").write_text("{}")
    (problem, *_) = verify_export(export).problems
    assert problem.startswith("1_Pooling/config.json")
    (export / "modules.json").unlink()
    assert "modules.json: expected in every export, found nothing" in verify_export(export).problems


@pytest.fixture
def no_process(monkeypatch):
    """Nothing is handed to sentence-transformers."""

    def refuse(*args):
        raise AssertionError("a fresh process was started")

    monkeypatch.setattr(homodistil_hf.embedding.folder, "run_fresh", refuse)


def as_a_forger_leaves_it(folder, file, **values):
    change_json(folder / file, **values)
    change_json(folder / "facts.json", files=file_facts(folder))


@needs_library
@pytest.mark.usefixtures("no_process")
@each(
    ("file", "values", "message"),
    [
        (
            "config.json",
            {"auto_map": {"AutoModel": "evil.Model"}},
            "config.json auto_map: expected None, found {",
        ),
        ("config.json", {"attn_implementation": "kernels/evil"}, "attn_implementation='kernels/evil'; expected eager"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; expected a whole number"),
        (
            "sentence_bert_config.json",
            {"model_args": {"x": "a/b"}},
            "expected sentence_bert_config.json with max_",
        ),
        ("2_Dense/config.json", {"activation_function": "torch.hub.load"}, "activation_function: expected one of"),
    ],
)
def test_a_folder_with_foreign_code_is_not_loaded(export, tmp_path, file, values, message):
    forged = shutil.copytree(export, tmp_path / "student")
    as_a_forger_leaves_it(forged, file, **values)
    assert message in verify_export(forged).problems[0]


@needs_library
@pytest.mark.usefixtures("no_process")
@each("kind", ["evil.Pooling", "sentence_transformers.sparse_encoder.SparseEncoder", 3])
def test_foreign_modules_are_not_loaded(export, kind):
    modules = json.loads((export / "modules.json").read_text())
    write(export / "modules.json", [modules[0], modules[1] | {"type": kind}])
    change_json(export / "facts.json", files=file_facts(export))
    assert "modules" in verify_export(export).problems[0]


@needs_library
@pytest.mark.usefixtures("no_process")
def test_foreign_modules_of_a_pair_are_not_loaded(export, tmp_path):
    model = load_embedding_model(export)
    pair = export_pair(model, model, tmp_path / "pair")
    types = json.loads((pair / "router_config.json").read_text())["types"]
    as_a_forger_leaves_it(pair, "router_config.json", types=types | {"query_1_Pooling": "evil.Pooling"})
    assert "found 'evil.Pooling' in 'query_1_Pooling'" in verify_export(pair).problems[0]


@needs_library
def test_an_old_library_is_handed_no_folder(export, monkeypatch, no_process):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.4.1")
    (problem,) = verify_export(export).problems
    assert problem.startswith("sentence-transformers 5.4.1 is installed, expected 6 or later")


@each(
    ("values", "message"),
    [
        ({"files": 3}, "facts.json: expected files, found 3"),
        ({"probe": 3}, "facts.json: its probe can't be compared: 'int' object is not subscriptable"),
        ({"settings_of_vectors": {}}, "facts.json: its probe can't be compared: 'prompts'"),
    ],
)
def test_facts_that_are_none_are_told(export, values, message):
    whole = (export / "facts.json").read_bytes()
    change_json(export / "facts.json", **values)
    assert message in verify_export(export).problems[0]
    (export / "facts.json").write_bytes(whole)


def test_without_the_library_verify_says_so(export, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert verify_export(export).problems == (
        "sentence-transformers is not installed; pip install 'homodistil-hf[embeddings]'",
    )


@pytest.mark.slow
@needs_library
def test_a_pair_has_queries_by_the_student_and_documents_by_the_teacher(teacher, export, tmp_path, capsys):
    from sentence_transformers import SentenceTransformer

    other = load_embedding_model(export)
    torch.nn.init.normal_(other.encoder.embeddings.word_embeddings.weight)
    student = export_embedding_model(other, tmp_path / "run" / "student", overwrite=True)
    write(tmp_path / "run" / "settings.json", {"teacher": str(teacher)})
    (teacher / "README.md").write_text("---\nlicense: mit\n---\n")
    words = ["export", str(tmp_path / "run"), "--output", str(tmp_path / "pair"), "--format", "pair"]
    assert main(words) == 0
    assert json.loads((tmp_path / "pair" / "facts.json").read_text())["teacher"]["licence"] == "mit"
    pair = SentenceTransformer(str(tmp_path / "pair"))
    texts = ["w7 w8", "w9 w10 w11"]
    found = {task: torch.from_numpy(getattr(pair, f"encode_{task}")(texts)) for task in ("query", "document")}
    expected = SentenceTransformer(str(student)).encode(texts, prompt_name="query", convert_to_tensor=True)
    assert torch.allclose(found["query"], expected, atol=1e-5)
    documents = SentenceTransformer(str(teacher)).encode_document(texts, convert_to_tensor=True)
    assert torch.allclose(found["document"], documents, atol=1e-5)
    assert not torch.allclose(found["query"], found["document"], atol=1e-2)
    report = verify_export(tmp_path / "pair")
    assert report.ok, report.problems
    card = (tmp_path / "pair" / "README.md").read_text()
    assert "encode_document" in card
    assert str(tmp_path) not in card + (tmp_path / "pair" / "facts.json").read_text()


def test_a_pair_with_another_teacher_is_refused(teacher, export, tmp_path, capsys):
    torch.manual_seed(11)
    other = make_sentence_folder(tmp_path / "other", encoder=randomized(BertModel(tiny_config())), dense=5)
    words = ["export", str(export), "--output", str(tmp_path / "pair"), "--format", "pair", "--teacher", str(other)]
    assert "is another model than" in error_of(capsys, *words)
    assert not (tmp_path / "pair").exists()


def test_pairs_of_two_spaces_are_refused(export, tmp_path):
    short = load_embedding_model(make_sentence_folder(tmp_path / "short", dense=3))
    with pytest.raises(ValueError, match="query has vectors of dimension=3, document 5; a pair needs one space"):
        export_pair(short, load_embedding_model(export), tmp_path / "pair")


def test_an_export_can_be_written_once_more(export, teacher, tmp_path, capsys):
    assert main(["export", str(export), "--output", str(tmp_path / "copy")]) == 0
    told = [json.loads((folder / "facts.json").read_text())["teacher"] for folder in (export, tmp_path / "copy")]
    assert told[0] is not None
    assert told[0] == told[1]
    both = [load_embedding_model(folder).encode(["w7"]) for folder in (export, tmp_path / "copy")]
    assert torch.equal(*both)
    # a teacher that is named is read for the card
    (teacher / "README.md").write_text("---\nlicense: mit\n---\n")
    words = ["export", str(export), "--output", str(tmp_path / "named"), "--teacher"]
    assert "no/such-teacher" in error_of(capsys, *words, "no/such-teacher")
    assert main([*words, str(teacher)]) == 0
    assert json.loads((tmp_path / "named" / "facts.json").read_text())["teacher"]["licence"] == "mit"
    assert "format='pair' needs the teacher, which no run has recorded" in error_of(
        capsys, "export", str(export), "--output", str(tmp_path / "p"), "--format", "pair"
    )
    assert "an embedding model is written as one of standard, pair" in error_of(
        capsys, "export", str(export), "--output", str(tmp_path / "c"), "--format", "compact"
    )


def test_damaged_axes_are_named(export, tmp_path, capsys):
    (export / "axes.safetensors").write_bytes(b"\0")
    assert "is cut off or no safetensors" in error_of(
        capsys, "export", str(export), "--output", str(tmp_path / "again")
    )
