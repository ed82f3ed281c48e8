"""Snippets of docs/guides/run.md run as they stand, in a folder with tiny students where the page has them."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
from deployed import needs_node, needs_onnx, needs_openvino, write_texts
from tiny_embeddings import make_sentence_folder
from tiny_models import random_student, tiny_tokenizer

from homodistil_hf import deploy_export, export_student, load_embedding_model
from homodistil_hf.deploy.runtimes import PACKAGE, modules_with
from homodistil_hf.deploy.targets import TARGETS
from homodistil_hf.embedding.folder import export_embedding_model
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForSequenceClassification

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "run.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^## ([^\n]+)\n\n<!-- run: (\w+) -->\n```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
STUDENT = Path("runs/my-student/student")
pytestmark = [needs_onnx, pytest.mark.slow]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder to start in for each kind of student."""
    root = tmp_path_factory.mktemp("page")
    model = load_embedding_model(make_sentence_folder(root / "teacher"))
    embedding = root / "embedding" / STUDENT
    export_embedding_model(model, embedding, teacher=model)
    targets = [name for name in ("onnx", "onnx-int8", "openvino") if importlib.util.find_spec(TARGETS[name].extra)]
    deploy_export(embedding, targets, texts=write_texts(root / "texts.txt"), least=0, num_rounds=0)
    student = random_student(HomoBertForSequenceClassification, num_labels=3)
    export_student(student, root / "head" / STUDENT, tokenizer=tiny_tokenizer())
    return root


def snippet(title):
    (found,) = [(kind, code) for section, kind, _, code in SNIPPETS if section == title]
    return found


@pytest.mark.parametrize(
    ("title", "printed"),
    [
        ("transformers", r"LABEL_[012]\n"),
        ("sentence-transformers", r"tensor\(\[\[.*\]\]\)\n"),
        ("ONNX Runtime", r"\[\[1\. .*\]\n \[.*1\. +\]\]\n"),
        pytest.param("OpenVINO", r"\[2,32\]\n|\(2, 32\)\n", marks=needs_openvino),
    ],
)
def test_python_snippets_run(title, printed, folders, monkeypatch, capsys):
    if title == "sentence-transformers":
        pytest.importorskip("sentence_transformers")
    kind, code = snippet(title)
    monkeypatch.chdir(folders / ("head" if kind == "head" else "embedding"))
    exec(compile(code, title, "exec"), {})
    assert re.fullmatch(printed, capsys.readouterr().out)


@needs_node
def test_the_javascript_snippet_runs(folders):
    _, code = snippet("transformers.js")
    here = folders / "embedding"
    (here / "script.mjs").write_text(code, encoding="utf-8")
    (here / "node_modules").symlink_to(modules_with(PACKAGE), target_is_directory=True)
    process = subprocess.run(["node", "script.mjs"], cwd=here, capture_output=True, text=True, timeout=120)
    assert "[ 2, 32 ]" in process.stdout, process.stderr


def test_every_snippet_is_run_or_marked():
    blocks = re.findall(r"(.*)\n```(?:python|js)\n", PAGE)
    assert len(blocks) == len(SNIPPETS) == 5
    assert all(mark.startswith("<!-- run: ") for mark in blocks)
