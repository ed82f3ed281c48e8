"""Teachers of other families from nothing, and the table of their students."""

import json

import pytest
from tiny_files import own_cache
from tiny_tokenizers import paragraphs
from transformers import AutoModelForMaskedLM, AutoTokenizer

from benchmarks import families
from benchmarks.families import SHAPES, students_table
from homodistil_hf.models.loading import load_teacher_config


@pytest.mark.parametrize("name", SHAPES)
def test_a_teacher_is_trained_from_text_alone(name, tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(families, "SHARED", {"hidden_size": 32, "num_hidden_layers": 2})
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs()))
    words = ["--family", name, "--text", str(tmp_path / "text.txt"), "--max_steps", "2"]
    families.main(["teacher", *words, "--output_dir", str(tmp_path)])
    config = load_teacher_config(str(tmp_path / "teacher"))
    assert config.model_type == name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.decode(tokenizer("as it was")["input_ids"]) == "<s>as it was</s>"
    AutoModelForMaskedLM.from_pretrained(tmp_path / "teacher")


def test_curves_are_collected_and_told(tmp_path, monkeypatch):
    for name, kl in (("roberta,seed=0", 0.5), ("modernbert,seed=0", 0.25)):
        folder = tmp_path / name / "checkpoint-2"
        folder.mkdir(parents=True)
        logs = [{"step": 1, "eval_kl": 1.0}, {"step": 2, "loss": 3.0}, {"step": 2, "eval_kl": kl}]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": logs}))
    monkeypatch.setattr(families, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(families, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- runs -->\n<!-- /runs -->\n")
    families.main(["table", "--sweep", str(tmp_path)])
    curves = json.loads((tmp_path / "record.json").read_text())
    assert students_table(curves).splitlines()[2:] == ["| modernbert | 1.000 | 0.250 |", "| roberta | 1.000 | 0.500 |"]
    assert students_table(curves) in (tmp_path / "page.md").read_text()
