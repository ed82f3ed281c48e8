"""Exports are read by transformers 4, too: every architecture, each with a tokenizer of its usual kind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_architectures import tiny_architecture_teacher
from tiny_tokenizers import trained_tokenizer
from transformers import (
    BertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from homodistil_hf.export.export_folder import export_student
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_student

FOLDER = Path(os.environ.get("TRANSFORMERS4", Path(__file__).parents[2] / ".cache" / "transformers4"))
"""Where `pip install --target` puts transformers 4 and what it needs besides, as `.ci/run` does."""
TEXT = "a student, w7 w8"
READ = f"""
import json, sys, torch, transformers
assert transformers.__version__.startswith("4."), transformers.__version__
found = {{}}
for name in sys.argv[1:]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    model = transformers.AutoModelForMaskedLM.from_pretrained(name).eval()
    encoded = tokenizer({TEXT!r}, return_tensors="pt")
    with torch.no_grad():
        logits = model(**encoded).logits
    found[name] = [encoded["input_ids"].tolist(), logits.flatten().tolist(), tokenizer.all_special_tokens]
print(json.dumps(found))
"""


def tokenizer_of(model_type):
    """One of the class that most models of an architecture have, with the words of a trained one."""
    kind = {"roberta": "BPE", "modernbert": "BPE", "deberta-v2": "Unigram"}.get(model_type, "WordPiece")
    trained = trained_tokenizer(kind)
    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    if model_type == "roberta":
        return RobertaTokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    if model_type == "modernbert":
        named = {name: getattr(trained, name) for name in ("pad_token", "mask_token", "cls_token", "sep_token")}
        more = ["<first>", "<second>"]
        return PreTrainedTokenizerFast(
            tokenizer_object=trained.backend_tokenizer, additional_special_tokens=more, **named
        )
    if model_type == "deberta-v2":
        return DebertaV2Tokenizer(vocab=[tuple(pair) for pair in model["vocab"]])
    words = model["vocab"]
    if model_type == "mpnet":
        roles = {"[CLS]": "<s>", "[PAD]": "<pad>", "[SEP]": "</s>", "[MASK]": "<mask>"}
        return MPNetTokenizer(vocab={roles.get(word, word): number for word, number in words.items()})
    return {"distilbert": DistilBertTokenizer}.get(model_type, BertTokenizer)(vocab=words)


def test_every_architecture_is_read_by_transformers_4(tmp_path):
    if not (FOLDER / "transformers").is_dir():
        pytest.skip("transformers 4 is not here: .ci/run has the command")
    expected = {}
    for name, architecture in ARCHITECTURES.items():
        tokenizer = tokenizer_of(name)
        # the head that DeBERTa has by default; transformers 4 can't read its own other one
        config = {"legacy": True} if name == "deberta-v2" else {}
        teacher = tiny_architecture_teacher(architecture, architecture.heads[0], vocab_size=len(tokenizer), **config)
        student = to_student(teacher).eval()
        folder = str(export_student(student, tmp_path / name, tokenizer=tokenizer))
        encoded = tokenizer(TEXT, return_tensors="pt")
        with torch.no_grad():
            logits = student(**encoded).logits
        expected[folder] = encoded["input_ids"].tolist(), logits.flatten().tolist(), tokenizer.all_special_tokens
    path = os.pathsep.join([str(FOLDER), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", READ, *expected]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    read = json.loads(ended.stdout)
    for folder, (ids, logits, special) in expected.items():
        assert read[folder][0] == ids, folder
        assert read[folder][1] == pytest.approx(logits, abs=1e-5), folder
        assert set(read[folder][2]) == set(special), folder
