"""GGUF files hold the encoder's numbers under llama.cpp's names, and llama.cpp gives the student's vectors."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from deployed import write_texts
from tiny_architectures import OTHERS, tiny_architecture_config
from tiny_embeddings import make_sentence_folder
from tiny_models import VOCAB_SIZE, randomized, tiny_tokenizer
from tiny_tokenizers import paragraphs, trained_tokenizer
from tokenizers import normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from homodistil_hf import deploy_export, load_embedding_model, verify_export
from homodistil_hf.deploy import llama_cpp
from homodistil_hf.deploy.gguf_file import gguf_problem, write_gguf
from homodistil_hf.embedding.folder import export_embedding_model
from homodistil_hf.models.architectures import ARCHITECTURES

gguf = pytest.importorskip("gguf", reason="the [gguf] extra is not installed")

WITH_BPE = {
    "roberta": {"type_vocab_size": 1},
    "modernbert": {"num_hidden_layers": 5, "layer_types": None, "local_attention": 8, "global_attn_every_n_layers": 3},
}
"""Architectures whose tokenizers are BPE of bytes → settings of tiny ones; layers 0 and 3 have full attention."""


def tiny_encoder(name, **overrides):
    values = {"vocab_size": 900, "pad_token_id": 1, "max_position_embeddings": 66} | WITH_BPE[name] | overrides
    architecture = ARCHITECTURES[name]
    torch.manual_seed(2)
    return randomized(architecture.stock_encoder(tiny_architecture_config(architecture, **values)))


def tiny_folder(folder: Path, name: str) -> Path:
    """A model of sentence-transformers with a tokenizer of BPE."""
    folder = make_sentence_folder(folder, encoder=tiny_encoder(name))
    tokenizer = trained_tokenizer("BPE")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    # llama.cpp takes matrices whose rows are multiples of 32.
    encoder = BertModel(
        BertConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=40,
        )
    )
    return load_embedding_model(make_sentence_folder(tmp_path_factory.mktemp("teacher"), encoder=encoder))


def test_every_parameter_but_the_poolers_has_its_name(model, tmp_path):
    file = tmp_path / "model.gguf"
    write_gguf(file, model=model.encoder, tokenizer=model.tokenizer, pooling="MEAN", name="tiny")
    reader = gguf.GGUFReader(file)
    found = {tensor.name: torch.from_numpy(tensor.data.copy()).float() for tensor in reader.tensors}
    state = model.encoder.state_dict()
    assert len(found) == sum(not name.startswith("pooler") for name, _ in model.encoder.named_parameters())
    pairs = {
        "token_embd.weight": "embeddings.word_embeddings.weight",
        "token_embd_norm.bias": "embeddings.LayerNorm.bias",
        "blk.1.attn_q.weight": "encoder.layer.1.attention.self.query.weight",
        "blk.1.attn_output_norm.weight": "encoder.layer.1.attention.output.LayerNorm.weight",
        "blk.0.ffn_up.bias": "encoder.layer.0.intermediate.dense.bias",
        "blk.0.ffn_down.weight": "encoder.layer.0.output.dense.weight",
        "blk.0.layer_output_norm.bias": "encoder.layer.0.output.LayerNorm.bias",
    }
    for name, own in pairs.items():
        assert torch.allclose(found[name], state[own], atol=1e-3), name
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert (fields["bert.attention.head_count"], fields["bert.pooling_type"]) == (4, 1)
    assert fields["tokenizer.ggml.bos_token_id"] == model.tokenizer.cls_token_id
    assert len(fields["tokenizer.ggml.tokens"]) == VOCAB_SIZE


def test_positions_before_the_first_are_left_out(tmp_path):
    encoder = tiny_encoder("roberta")
    write_gguf(tmp_path / "m.gguf", model=encoder, tokenizer=trained_tokenizer("BPE"), pooling="CLS", name="tiny")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    (found,) = (tensor.data for tensor in reader.tensors if tensor.name == "position_embd.weight")
    assert torch.equal(torch.from_numpy(found.copy()), encoder.embeddings.position_embeddings.weight[2:])
    assert reader.fields["bert.context_length"].contents() == 64


def test_a_modernbert_has_its_windows_and_both_kinds_of_positions(tmp_path):
    encoder = tiny_encoder("modernbert")
    write_gguf(tmp_path / "m.gguf", model=encoder, tokenizer=trained_tokenizer("BPE"), pooling="MEAN", name="tiny")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    assert len(reader.tensors) == len(encoder.state_dict())
    fields = {name: field.contents() for name, field in reader.fields.items()}
    expected = {"attention.sliding_window": 8, "attention.sliding_window_pattern": 3}
    kinds = encoder.config.rope_parameters
    expected |= {"rope.freq_base": kinds["full_attention"]["rope_theta"]}
    expected |= {"rope.freq_base_swa": kinds["sliding_attention"]["rope_theta"]}
    assert {name: fields[f"modern-bert.{name}"] for name in expected} == expected


@pytest.mark.parametrize(
    "architecture",
    [one for one in OTHERS if one.name not in ("RoBERTa", "XLM-RoBERTa", "CamemBERT", "ModernBERT")],
    ids=lambda one: one.name,
)
def test_other_encoders_are_refused_by_name(architecture):
    encoder = architecture.stock_encoder(tiny_architecture_config(architecture))
    assert gguf_problem(encoder, tiny_tokenizer()).endswith(f"this one is a {architecture.name}")


@pytest.mark.parametrize(
    ("name", "overrides", "problem"),
    [
        ("roberta", {"hidden_act": "relu"}, "this one has the activation 'relu'"),
        ("modernbert", {"mlp_bias": True}, "a ModernBERT without biases, and this one has mlp.Wi.bias"),
        (
            "modernbert",
            {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]},
            "full attention in the first layer and at equal distances, and this encoder elsewhere",
        ),
    ],
)
def test_forms_that_the_reader_lacks_are_refused(name, overrides, problem):
    assert problem in gguf_problem(tiny_encoder(name, **overrides), trained_tokenizer("BPE"))


def test_other_tokenizers_are_refused(model):
    capitals, spaced, bare = tiny_tokenizer(), deepcopy(trained_tokenizer("BPE")), tiny_tokenizer()
    capitals.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    spaced.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    for tokenizer in (capitals, spaced, trained_tokenizer("Unigram")):
        assert gguf_problem(model.encoder, tokenizer).startswith("llama.cpp reads WordPiece in lower case and BPE")
    bare.backend_tokenizer.post_processor = processors.ByteLevel()
    assert gguf_problem(model.encoder, bare).startswith("llama.cpp puts one token before")


@pytest.mark.slow
def test_llama_cpp_gives_the_students_vectors(model, tmp_path):
    folder = export_embedding_model(model, tmp_path / "student", teacher=model)
    texts = write_texts(tmp_path / "texts.txt")
    (row,) = deploy_export(folder, "gguf", texts=texts, num_rounds=0)
    if (reason := llama_cpp.missing_reason()) is not None:
        assert row["not_run"] == reason
    else:
        assert row["figures"]["lowest_cosine"] > 0.999
    assert (folder / "gguf" / "model.gguf").stat().st_size == row["size_bytes"]
    if pytest.importorskip("sentence_transformers"):
        assert verify_export(folder).ok


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_BPE)
def test_llama_cpp_gives_vectors_of_encoders_with_bpe(name, tmp_path):
    model = load_embedding_model(tiny_folder(tmp_path / "teacher", name))
    folder = export_embedding_model(model, tmp_path / "student", teacher=model)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(part.split("\n")[0][:120] for part in paragraphs()[:20]), encoding="utf-8")
    (row,) = deploy_export(folder, "gguf", texts=texts, num_rounds=0)
    if (reason := llama_cpp.missing_reason()) is not None:
        pytest.skip(reason)
    assert row["not_run"] == ""
    assert row["figures"]["lowest_cosine"] > 0.9999
