"""Exports are read by transformers 4 and sentence-transformers 5, too: every head, usual tokenizers."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from students import sliced
from tiny_architectures import plan_of, tiny_architecture_config, tiny_architecture_teacher
from tiny_embeddings import make_sentence_folder
from tiny_tokenizers import trained_tokenizer
from transformers import (
    BertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    MPNetTokenizer,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)

from homodistil_hf.embedding.folder import export_embedding_model
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.export.export_folder import export_student
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.architecture import SEQUENCE_CLASSIFICATION
from homodistil_hf.models.architectures.modeling_layerwise import each_rope
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.widths import LayerWidths, WidthPlan

FOLDER = Path(os.environ.get("HOMODISTIL_OLDER_VERSIONS", Path(__file__).parents[2] / ".cache" / "older_versions"))
"""Where `pip install --target` puts them and what they need besides, as `.ci/run` does."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (FOLDER / "transformers").is_dir(), reason=".ci/run has the command that installs them"),
]
TEXT = "a student, w7 w8"
NEW_IN_5 = {"nomic_bert", "gte", "jina_embeddings_v3", "eurobert"}
"""Model types whose classes transformers 4 lacks."""
FIND = """
import json, sys, torch, transformers
assert transformers.__version__.startswith("4."), transformers.__version__
import sentence_transformers
assert sentence_transformers.__version__.startswith("5."), sentence_transformers.__version__
text, vectors_folder, folders, classes = json.loads(sys.argv[1])

probe = json.loads(open(f"{vectors_folder}/facts.json").read())["probe"]
vectors = sentence_transformers.SentenceTransformer(vectors_folder, device="cpu").encode(probe["texts"])
torch.testing.assert_close(torch.tensor(vectors), torch.tensor(probe["vectors"]["query"]), rtol=1e-5, atol=1e-5)

lacking = [name for name in classes if not hasattr(transformers, name)]
tokens = {}
for folder in folders:
    probe = json.loads(open(f"{folder}/facts.json").read())["probe"]
    model, told = getattr(transformers, folder.rpartition("/")[2]).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"], told
    inputs = {name: torch.tensor(rows) for name, rows in probe.items() if name not in ("positions", "logits")}
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    answers = [outputs[name] for name in ("start_logits", "end_logits") if name in outputs]
    logits = torch.stack(answers, -1) if answers else outputs.logits
    wanted = torch.tensor(probe["logits"])
    torch.testing.assert_close(logits.flatten()[probe["positions"]], wanted, rtol=1e-5, atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens[folder] = [tokenizer(text)["input_ids"], tokenizer.all_special_tokens]
print(json.dumps([tokens, lacking]))
"""


def found_by_older_versions(*given):
    path = os.pathsep.join([str(FOLDER), *sys.path])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", FIND, json.dumps(given)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


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


def test_older_versions_give_the_logits_of_every_head_its_tokens_and_vectors(tmp_path):
    """One process of theirs for all, as it takes seconds to import them; transformers 4 lacks what is new in 5."""
    tokenizers = {}
    for name in ARCHITECTURES.keys() - NEW_IN_5:
        architecture, tokenizer = ARCHITECTURES[name], tokenizer_of(name)
        for head in architecture.heads:
            # DeBERTa's head of masked words by default; transformers 4 can't read its own other one
            config = {"legacy": True} if head.stock_name == "DebertaV2ForMaskedLM" else {}
            teacher = tiny_architecture_teacher(architecture, head, vocab_size=len(tokenizer), **config)
            tokenizers[str(export_student(teacher, tmp_path / head.stock_name, tokenizer=tokenizer))] = tokenizer
    # θ that is no class's default, of each kind of layers, and rotary pairs that were dropped
    for name, theta in (("llama", 5e5), ("mistral", 1e6), ("qwen3", 1e6), ("gemma3_text", 5e5), ("modernbert", 8e4)):
        architecture, tokenizer = ARCHITECTURES[name], tokenizer_of(name)
        head = next(head for head in architecture.heads if head.kind is SEQUENCE_CLASSIFICATION)
        rope = each_rope(tiny_architecture_config(architecture).rope_parameters, partial(dict, rope_theta=theta))
        own = {"vocab_size": len(tokenizer), "rope_parameters": rope}
        student = to_student(tiny_architecture_teacher(architecture, head, **own))
        if name == "qwen3":
            sliced(student, plan_of(architecture, WidthPlan.uniform(24, 2, LayerWidths(4, 6, 32))))
        folder = export_student(student, tmp_path / "theta" / head.stock_name, tokenizer=tokenizer)
        tokenizers[str(folder)] = tokenizer
    model = load_embedding_model(str(make_sentence_folder(tmp_path / "teacher", dense=8)))
    student = export_embedding_model(model, tmp_path / "student")
    classes = {head.stock_name: name for name, architecture in ARCHITECTURES.items() for head in architecture.heads}
    tokens, lacking = found_by_older_versions(TEXT, str(student), [*tokenizers], [*classes])
    for folder, tokenizer in tokenizers.items():
        ids, special = tokens[folder]
        assert ids == tokenizer(TEXT)["input_ids"], folder
        assert set(special) == set(tokenizer.all_special_tokens), folder
    assert sorted(lacking) == sorted(stock for stock, name in classes.items() if name in NEW_IN_5)
