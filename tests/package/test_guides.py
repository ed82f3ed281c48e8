"""Commands and scripts of README and guides run as they stand, with tiny models and few steps."""

import importlib.util
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from deployed import needs_node, needs_onnx, needs_openvino, write_texts
from task_rows import KINDS, rows_of_kind
from tiny_embeddings import make_sentence_folder
from tiny_files import own_cache, write_teacher, write_text
from tiny_glue import write_task
from tiny_models import VOCAB_SIZE, random_student, randomized, tiny_config, tiny_tokenizer
from tiny_multi_vector import make_multi_vector_folder
from tiny_sparse import make_sparse_folder
from transformers import BertForMaskedLM, BertModel

from homodistil_hf import deploy_export, export_student, load_embedding_model
from homodistil_hf.cli import command_named, main
from homodistil_hf.deploy.folder import TARGETS
from homodistil_hf.deploy.runtimes import PACKAGE, modules_with
from homodistil_hf.embedding.folder import export_embedding_model
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForSequenceClassification
from homodistil_hf.runs.config import help_of

ROOT = Path(__file__).parents[2]
GUIDES = ROOT / "docs" / "guides"
SIZE = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256}
PAGES = [ROOT / "README.md", ROOT / "docs" / "index.md", *sorted(GUIDES.glob("*.md"))]
DISTILLED = "--max_steps 2 --use_cpu --per_device_train_batch_size 4"
FINE_TUNED = "--max_train_steps 2 --batch_size 4 --learning_rate 1e-3"
REPLACED = {
    r"max_steps=[\d_]+": "max_steps=2, use_cpu=True",
    "google-bert/bert-base-uncased": "my-bert",
    r"my_corpus/\*\.parquet": "text.txt",
    "test_size=1000": "test_size=10",
    "n_trials=10": "n_trials=2",
    "max_seq_length=128": "max_seq_length=16",
    '"learning_rate": 1e-4': '"learning_rate": 1e-4, "max_train_steps": 2, "batch_size": 4',
}
"""What scripts say → what is run."""


@pytest.fixture(autouse=True)
def _own_modules(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder with the models and the data that the guides name."""
    folder = tmp_path_factory.mktemp("inputs")
    write_teacher(folder / "my-bert", **SIZE)
    write_teacher(folder / "my-general-student", **SIZE | {"hidden_size": 32})
    for model, kind in (("my-classifier", "classes"), ("my-tagger", "tags"), ("my-answerer", "answers")):
        write_teacher(folder / model, **{**SIZE, **KINDS[kind][1]})
    write_teacher(folder / "my-model", **{**SIZE, **KINDS["classes"][1]})
    write_teacher(folder / "my-reranker", **SIZE, task="sequence_classification", num_labels=1)
    make_sentence_folder(folder / "my-embedder", encoder=randomized(BertModel(tiny_config(**SIZE))))
    make_multi_vector_folder(folder / "my-colbert", encoder=randomized(BertModel(tiny_config(**SIZE))))
    make_sparse_folder(folder / "my-splade", model=randomized(BertForMaskedLM(tiny_config(**SIZE))))
    # what README names on the Hub stands in folders of the same names
    public = {**SIZE, **KINDS["classes"][1]}
    write_teacher(folder / "distilbert" / "distilbert-base-uncased-finetuned-sst-2-english", **public)
    make_sentence_folder(
        folder / "sentence-transformers" / "all-MiniLM-L6-v2", encoder=randomized(BertModel(tiny_config(**SIZE)))
    )
    for name in ("stanfordnlp/sst2", "sentence-transformers/wikipedia-en-sentences"):
        for split in ("train", "validation"):
            rows_of_kind("classes").to_parquet(folder / name / f"{split}.parquet")
    rows_of_kind("classes").to_csv(folder / "rows.csv")
    rows_of_kind("classes").to_parquet(folder / "rows.parquet")
    rows_of_kind("classes", seed=1).to_csv(folder / "more-rows.csv")
    rows_of_kind("tags").to_parquet(folder / "tags.parquet")
    rows_of_kind("answers").to_json(folder / "answers.json")
    pairs = rows_of_kind("pairs").to_dict()
    Dataset.from_dict({"question": pairs["sentence1"], "passage": pairs["sentence2"]}).to_parquet(
        folder / "pairs.parquet"
    )
    write_text(folder / "text.txt")
    lines = [f"w{5 + n % (VOCAB_SIZE - 5)} w{6 + n * 7 % 80} w{5 + n * 3 % 90}" for n in range(60)]
    (folder / "documents.txt").write_text("\n".join(lines), encoding="utf-8")
    (folder / "queries.txt").write_text("\n".join(lines[:40]), encoding="utf-8")
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(len(lines), 16)).tolist()
    Dataset.from_dict({"text": lines, "vector": vectors}).to_parquet(folder / "vectors.parquet")
    write_task(folder / "glue", "mrpc")
    return folder


def blocks(page, *languages):
    """Language and text of each block of code, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S)
    return [(language, code) for language, code in found if language in languages]


def commands(code):
    """The words of each command in a block, without what follows a # and lines that go on."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def is_run(words):
    """Whether a command can run here: no network, no other runtime or tracker, minutes at most."""
    if words[0] != "homodistil" or words[1] in ("deploy", "demo", "latency"):
        return False
    if "tensorboard" in words and importlib.util.find_spec("tensorboard") is None:
        return False
    is_sent = words[1] == "push" and "--dry_run" not in words
    return not (is_sent or {"config.json", "--push_to_hub"} & set(words))


def check_words(words):
    """Check the flags of a command that isn't run."""
    if words[0] == "torchrun" or words[0] == "accelerate":
        words = ["homodistil", *words[words.index("homodistil_hf") + 1 :]]
    if words[0] == "homodistil":
        known = set(re.findall(r"--\w+", help_of([]))) if words[1] == "distill" else set()
        known |= {f"--{entry.name}" for entry in fields(command_named(words[1]))}
        assert {word for word in words if word.startswith("--")} <= known, words
    elif words[0] == "python":
        script = (ROOT / words[1]).read_text(encoding="utf-8")
        assert all(word in script for word in words if word.startswith("--")), words
    else:
        assert words[0] in ("pip", "git", "hf", "tensorboard", "make"), words


def shortened(name, words):
    """Flags that make a command short."""
    if "bit" in words or name == "finetune" or {"mrpc"} & set(words):
        return FINE_TUNED
    return DISTILLED if name == "distill" else ""


def run_block(language, code):
    """Run one block of a page in the working folder."""
    if language == "python":
        for pattern, short in REPLACED.items():
            code = re.sub(pattern, short, code)
        exec(compile(code, "page", "exec"), {})
        return
    for words in commands(code.replace("agreement=0.95", "agreement=0.01")):  # tiny models hardly agree
        if is_run(words):
            name, *rest = words[1:]
            assert main([name, *rest, *shortened(name, rest).split()]) == 0, words
        else:
            check_words(words)


def write_json(page):
    """Write the JSON files that a page shows under the names that it gives them."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```json\n(.*?)^```", text, re.M | re.S):
        named = ["config.json", *re.findall(r"`(\w+\.json)`", text[: block.start()])]
        Path(named[-1]).write_text(re.sub(r'"max_steps": \d+', '"max_steps": 2', block[1]), encoding="utf-8")


@pytest.fixture(scope="module")
def finished_runs(inputs, tmp_path_factory):
    """A folder with runs that the guide on evaluations finds finished."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        own_cache(monkeypatch, folder / "cache")
        monkeypatch.chdir(inputs)
        for name, model, data in (
            ("out", "my-bert", "text.txt"),
            ("classes", "my-classifier", "rows.csv"),
            ("embeddings", "my-embedder", "text.txt"),
        ):
            words = f"homodistil distill --teacher {model} --train_data {data} --student .5 --output_dir"
            run_block("bash", f"{words} {folder / 'runs' / name}")
    return folder / "runs"


@pytest.mark.docs
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.stem != "run"], ids=lambda page: page.stem)
def test_commands_and_scripts_run_in_their_order(page, inputs, tmp_path, monkeypatch, request):
    for path in inputs.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    write_json(page)
    if page.stem in ("evaluate", "hub", "troubleshooting"):
        shutil.copytree(request.getfixturevalue("finished_runs"), tmp_path, dirs_exist_ok=True)
    if page.stem == "sizes":  # its family of embedding models has three graphs more than the page on these has
        from homodistil_hf.embedding import deployable

        monkeypatch.setattr(deployable, "missing_reason", lambda backend: f"{backend} takes seconds to get ready")
    for language, code in blocks(page, "bash", "python"):
        run_block(language, code)


# Snippets of run.md, each for a kind of student


RUN = (GUIDES / "run.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^## ([^\n]+)\n\n<!-- run: (\w+) -->\n```(\w+)\n(.*?)^```", RUN, re.M | re.S)
STUDENT = Path("runs/my-student/student")


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """A folder to start in for each kind of student."""
    root = tmp_path_factory.mktemp("students")
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


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "printed"),
    [
        ("transformers", r"LABEL_[012]\n"),
        ("sentence-transformers", r"tensor\(\[\[.*\]\]\)\n"),
        ("ONNX Runtime", r"\[\[1\. .*\]\n \[.*1\. +\]\]\n"),
        pytest.param("OpenVINO", r"\[2,32\]\n|\(2, 32\)\n", marks=needs_openvino),
    ],
)
def test_python_snippets_run(title, printed, students, monkeypatch, capsys):
    if title == "sentence-transformers":
        pytest.importorskip("sentence_transformers")
    kind, code = snippet(title)
    monkeypatch.chdir(students / ("head" if kind == "head" else "embedding"))
    exec(compile(code, title, "exec"), {})
    assert re.fullmatch(printed, capsys.readouterr().out)


@needs_onnx
@needs_node
@pytest.mark.slow
def test_the_javascript_snippet_runs(students):
    _, code = snippet("transformers.js")
    here = students / "embedding"
    (here / "script.mjs").write_text(code, encoding="utf-8")
    (here / "node_modules").symlink_to(modules_with(PACKAGE), target_is_directory=True)
    process = subprocess.run(["node", "script.mjs"], cwd=here, capture_output=True, text=True, timeout=120)
    assert "[ 2, 32 ]" in process.stdout, process.stderr


def test_every_snippet_is_run_or_marked():
    marks = re.findall(r"(.*)\n```(?:python|js)\n", RUN)
    assert len(marks) == len(SNIPPETS) == 5
    assert all(mark.startswith("<!-- run: ") for mark in marks)
