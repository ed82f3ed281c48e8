"""GGUF files hold the encoder's numbers under llama.cpp's names, and llama.cpp gives the student's vectors."""

import pytest
import torch
from deployed import write_texts
from tiny_architectures import OTHERS, tiny_architecture_config
from tiny_embeddings import make_sentence_folder
from tiny_models import VOCAB_SIZE, tiny_tokenizer
from transformers import BertConfig, BertModel

from homodistil_hf import deploy_export, load_embedding_model, verify_export
from homodistil_hf.deploy import llama_cpp
from homodistil_hf.deploy.gguf_file import gguf_problem, write_gguf
from homodistil_hf.methods.embedding.folder import export_embedding_model

gguf = pytest.importorskip("gguf", reason="the [gguf] extra is not installed")


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


@pytest.mark.parametrize("architecture", OTHERS, ids=lambda one: one.name)
def test_other_encoders_are_refused_by_name(architecture):
    encoder = architecture.stock_encoder(tiny_architecture_config(architecture))
    assert gguf_problem(encoder, tiny_tokenizer()).endswith(f"this one is a {architecture.name}")


def test_a_tokenizer_that_keeps_capitals_is_refused(model):
    tokenizer = tiny_tokenizer()
    from tokenizers import normalizers

    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    assert gguf_problem(model.encoder, tokenizer).startswith("llama.cpp reads WordPiece in lower case alone")


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
