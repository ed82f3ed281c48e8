"""docs/facts.md has every key of facts.json, and no other."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import make_teacher
from transformers import BertForSequenceClassification

from homodistil_hf import export_student
from homodistil_hf.export.facts import RUN_SECTIONS
from homodistil_hf.export.outcome import RUNTIMES

PAGE = Path(__file__).parents[2] / "docs" / "facts.md"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The facts of an export of each kind, with all that the teacher's may have."""
    from tiny_embeddings import make_sentence_folder

    from homodistil_hf.embedding.folder import export_embedding_model, export_pair
    from homodistil_hf.embedding.model import load_embedding_model
    from homodistil_hf.methods.binarization.binarizing import to_binary, to_packed
    from homodistil_hf.methods.binarization.folder import export_packed

    folder = tmp_path_factory.mktemp("exports")
    teacher = make_teacher(BertForSequenceClassification)
    teacher.save_pretrained(folder / "stated")
    (folder / "stated" / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
    vectors = load_embedding_model(str(make_sentence_folder(folder / "teacher")))
    measured = {"metrics": {"float": {"accuracy": 0.5}, "stage-1": {"activation_bits": 1, "accuracy": 0.5}}}
    bits = to_packed(to_binary(vectors.encoder, activation_bits=8))
    exports = [
        export_student(teacher, folder / "classes", teacher=folder / "stated"),
        export_packed(to_binary(teacher, activation_bits=1), folder / "bits", facts=measured),
        export_embedding_model(vectors, folder / "vectors", teacher=vectors),
        export_pair(vectors, vectors, folder / "pair"),
        export_embedding_model(replace(vectors, encoder=bits), folder / "vectors of bits", teacher=vectors),
    ]
    return [json.loads((path / "facts.json").read_text(encoding="utf-8")) for path in exports]


@pytest.fixture(scope="module")
def told():
    """Heading of the page → the keys in the list below it."""
    sections = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return {name: re.findall(r"^- `(\w+)`: ", text, re.M) for name, text in sections}


@pytest.mark.slow
def test_the_page_has_every_section(written, told):
    assert sorted(told["Sections"]) == sorted({*RUN_SECTIONS, RUNTIMES}.union(*written))


def test_the_page_has_every_key_of_student_and_teacher(written, told):
    models = [facts[side] for facts in written for side in ("student", "teacher") if facts.get(side)]
    assert sorted(told["Student and teacher"]) == sorted(set().union(*models))


def test_the_page_has_every_format(written):
    text = PAGE.read_text(encoding="utf-8")
    assert {facts["format"] for facts in written} <= set(re.findall(r"`([\w -]+)`", text))
