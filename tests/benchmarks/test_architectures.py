"""Teachers of other architectures from nothing, and the table of their students."""

import json

import pytest
import torch
from tiny_files import own_cache, write_teacher
from tiny_tokenizers import paragraphs
from transformers import AutoModelForMaskedLM, AutoTokenizer

from benchmarks import architectures
from benchmarks.architectures import PAGE, RECORD, SHAPES, students_table
from benchmarks.marked_pages import filled
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.models.loading import load_encoder_config


@pytest.mark.parametrize("name", SHAPES)
def test_a_teacher_is_trained_from_text_alone(name, tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(architectures, "SHARED", {"hidden_size": 32, "num_hidden_layers": 2})
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs()))
    words = ["--architecture", name, "--text", str(tmp_path / "text.txt"), "--max_steps", "2"]
    architectures.main(["teacher", *words, "--output_dir", str(tmp_path)])
    config = load_encoder_config(str(tmp_path / "teacher"))
    assert config.model_type == name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    assert len(tokenizer) == config.vocab_size
    assert tokenizer.decode(tokenizer("as it was")["input_ids"]) == "<s>as it was</s>"
    AutoModelForMaskedLM.from_pretrained(tmp_path / "teacher")


def test_a_roberta_begins_with_what_a_bert_knows(tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr(architectures, "ROW_LENGTH", 16)
    bert = AutoModelForMaskedLM.from_pretrained(write_teacher(tmp_path / "bert"))
    (tmp_path / "text.txt").write_text("\n\n".join(["w7 w8 w7 w9 " * 20] * 20))
    words = ["--start", str(tmp_path / "bert"), "--text", str(tmp_path / "text.txt"), "--max_steps", "1"]
    architectures.main(["teacher", *words, "--learning_rate", "1e-12", "--output_dir", str(tmp_path)])
    roberta = AutoModelForMaskedLM.from_pretrained(tmp_path / "teacher")
    states = torch.randn(1, 4, 32)
    for index, layer in enumerate(bert.bert.encoder.layer):
        assert torch.allclose(layer(states), roberta.roberta.encoder.layer[index](states), atol=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    letter, _ = tokenizer(" w7", add_special_tokens=False)["input_ids"]  # which that BERT doesn't know by itself
    pairs = {letter: 1, tokenizer.cls_token_id: 2, tokenizer.mask_token_id: 4}
    for new, old in pairs.items():
        assert torch.allclose(
            roberta.get_input_embeddings().weight[new], bert.get_input_embeddings().weight[old], atol=1e-5
        )
    positions = roberta.roberta.embeddings.position_embeddings.weight[tokenizer.pad_token_id + 1 :]
    assert torch.allclose(positions, bert.bert.embeddings.position_embeddings.weight[:16], atol=1e-5)


def test_curves_are_collected_and_told(tmp_path, monkeypatch):
    records = [
        {
            "format": 1,
            "status": "done",
            "cell": cell,
            "num_steps": 2,
            "evaluations": [{"step": 1, "kl": 1.0}, {"step": 2, "kl": kl}],
            "teacher_evaluation": {"mlm_accuracy": 0.5},
            "evaluation": {"mlm_accuracy": 0.25},
            "models": {"teacher": {"num_parameters": 4_000_000}, "student": {"num_parameters": 1_000_000}},
        }
        for cell, kl in (("roberta,seed=0", 0.5), ("modernbert_gradual,seed=0", 0.25))
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, records)))
    monkeypatch.setattr(architectures, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(architectures, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- runs -->\n<!-- /runs -->\n")
    architectures.main(["table", "--sweep", str(tmp_path)])
    rows = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert students_table(rows).splitlines()[2:] == [
        "| `modernbert` | gradually | 1.000 | 0.250 | 50.0% → 25.0% | 4.0 M → 1.0 M |",
        "| `roberta` | at once | 1.000 | 0.500 | 50.0% → 25.0% | 4.0 M → 1.0 M |",
    ]
    assert students_table(rows) in (tmp_path / "page.md").read_text()


def test_the_page_has_the_table_of_the_record():
    rows, page = read_json_object(RECORD, "record")["rows"], PAGE.read_text(encoding="utf-8")
    assert filled(page, "runs", students_table(rows)) == page
