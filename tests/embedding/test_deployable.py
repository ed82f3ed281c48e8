"""An embedding model's graph: the map stands on every token wherever the pooling lets it; runtimes need no layer."""

import dataclasses
import logging

import pytest
import torch
from commands import error_of
from deployed import needs_node, needs_onnx, write_texts
from rows import each
from tiny_embeddings import make_sentence_folder
from tiny_models import randomized, tiny_config
from torch import nn
from torch.nn import functional as F
from transformers import BertModel

from homodistil_hf import deploy_export, load_embedding_model, verify_export
from homodistil_hf.embedding import deployable
from homodistil_hf.embedding.deployable import (
    ONNX_RUNTIME,
    TORCH,
    embedding_deployable,
    graph_encoder,
    map_problem,
    query_ms,
)
from homodistil_hf.embedding.folder import export_embedding_model, export_pair
from homodistil_hf.embedding.model import POOLINGS, Dense, pooled
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.models.onnx_graphs import onnx_session


def with_map(folder, pooling, *, activation="Identity", bias=True):
    """A model with a linear layer of 7 outputs behind its pooling."""
    encoder = randomized(BertModel(tiny_config(num_hidden_layers=1)))  # tracing takes half a second a layer
    model = load_embedding_model(make_sentence_folder(folder, encoder=encoder, pooling=pooling))
    torch.manual_seed(5)
    return dataclasses.replace(model, dense=(Dense(nn.Linear(32, 7, bias=bias).requires_grad_(False), activation),))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.txt")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("run") / "student"
    model = with_map(tmp_path_factory.mktemp("teacher"), "mean")
    export_embedding_model(model, folder, teacher=model)
    return folder, model, deploy_export(folder, ["onnx", "onnx-int8"], texts=texts, num_rounds=0, least=0.9)


@needs_onnx
@pytest.mark.slow
def test_states_need_no_more_than_pooling_and_length_1(deployed):
    folder, model, rows = deployed
    inputs = model.tokenize(["w5 w9 w12", "w7", ""])
    session = onnx_session(folder / "onnx" / "model.onnx")
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    states, vectors = (
        torch.from_numpy(found) for found in session.run(["last_hidden_state", "sentence_embedding"], arrays)
    )
    expected = model.encode(["w5 w9 w12", "w7", ""])
    assert states.shape[-1] == vectors.shape[-1] == 7
    assert torch.allclose(vectors, expected, atol=1e-6)
    assert torch.allclose(F.normalize(pooled(states, inputs["attention_mask"], "mean"), dim=-1), expected, atol=1e-6)
    assert rows[0]["figures"]["fidelity"] == pytest.approx(1)
    assert rows[0]["figures"]["neighbours"] == 1
    assert 0.9 < rows[1]["figures"]["lowest_cosine"] < rows[1]["figures"]["fidelity"] < 1


@needs_onnx
@pytest.mark.slow
def test_tokenizers_cut_where_the_model_does(deployed):
    folder, model, _ = deployed
    assert read_json_object(folder / "tokenizer_config.json", "")["model_max_length"] == model.settings.max_seq_length


@needs_onnx
@pytest.mark.slow
def test_verify_and_card_have_the_graphs(deployed):
    pytest.importorskip("sentence_transformers")
    folder, _, _ = deployed
    assert verify_export(folder).ok
    assert "| onnx/model_quantized.onnx " in (folder / "README.md").read_text(encoding="utf-8")


@needs_onnx
@needs_node
@pytest.mark.slow
def test_transformers_js_gives_the_same_vectors(deployed, texts):
    rows = deploy_export(deployed[0], "transformers.js", texts=texts, num_rounds=0)
    assert [row["file"] for row in rows] == ["onnx/model.onnx", "onnx/model_quantized.onnx"]
    assert rows[0]["figures"]["distance"] < 1e-5
    assert rows[1]["figures"]["fidelity"] > 0.9


@needs_onnx
@pytest.mark.slow
def test_behind_another_pooling_vectors_come_alone(tmp_path, texts):
    model = with_map(tmp_path / "teacher", "max")
    folder = export_embedding_model(model, tmp_path / "student", teacher=model)
    graph, javascript = deploy_export(folder, ["onnx", "transformers.js"], texts=texts, num_rounds=0)
    found = {one.name: one.shape for one in onnx_session(folder / graph["file"]).get_outputs()}
    assert found == {"sentence_embedding": ["batch", 7]}
    assert graph["figures"]["distance"] < 1e-5
    reason = "Its graphs give `sentence_embedding` alone, no states of tokens, because its pooling, max, comes before"
    assert javascript["not_run"] == f"transformers.js can't make its results. {reason} a linear map and is not linear."
    assert reason in (folder / "README.md").read_text(encoding="utf-8")


@each("pooling", POOLINGS)
def test_the_map_stands_on_every_token_where_the_pooling_is_linear(pooling, tmp_path):
    # By definition: the pooled states through the map are the pooled states that went through the map.
    layer, states = nn.Linear(4, 3, bias=pooling != "mean_sqrt_len_tokens"), torch.randn(2, 5, 4)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    after, before = layer(pooled(states, mask, pooling)), pooled(layer(states), mask, pooling)
    kind = "mean" if pooling not in ("cls", "max", "lasttoken") else pooling
    model = with_map(tmp_path, kind, bias=pooling != "mean_sqrt_len_tokens")
    model = dataclasses.replace(model, settings=dataclasses.replace(model.settings, pooling=pooling))
    assert torch.allclose(after, before, atol=1e-6) == (map_problem(model) == "") == (pooling != "max")


def test_layers_that_no_token_can_have_are_named(tmp_path):
    tanh = with_map(tmp_path / "tanh", "mean", activation="Tanh")
    assert map_problem(tanh) == "a layer behind its pooling has the activation Tanh"
    rooted = with_map(tmp_path / "root", "mean")
    rooted = dataclasses.replace(rooted, settings=dataclasses.replace(rooted.settings, pooling="mean_sqrt_len_tokens"))
    assert map_problem(rooted).startswith("its pooling, mean_sqrt_len_tokens, comes before a linear map")
    plain = dataclasses.replace(tanh, dense=())
    assert map_problem(plain) == ""
    cut = dataclasses.replace(plain, settings=dataclasses.replace(plain.settings, truncate_dim=8))
    assert map_problem(cut) == "its vectors are cut to 8 channels behind all layers"


def test_texts_get_the_models_own_prompt(tmp_path):
    folder = make_sentence_folder(tmp_path, prompts={"query": "w5 "}, default_prompt_name="query")
    ready = embedding_deployable(folder)
    assert (
        ready.inputs([("w9", None)])["input_ids"].tolist()
        == ready.tokenizer("w5 w9", return_tensors="pt")["input_ids"].tolist()
    )


def test_a_pair_is_refused(tmp_path, capsys):
    model = load_embedding_model(make_sentence_folder(tmp_path / "teacher"))
    folder = export_pair(model, model, tmp_path / "pair")
    assert "format='sentence-transformers pair', which no other runtime reads" in error_of(
        capsys, "deploy", str(folder), "--to", "onnx"
    )


QUERIES = ["w10 w11", "w12 w13 w14 w15"]


@pytest.fixture
def models(tmp_path):
    encoders = {name: randomized(BertModel(tiny_config(num_hidden_layers=1)), seed=ord(name)) for name in ("a", "b")}
    shared = {"prompts": {"query": "w20 w21 w22"}}
    folders = {name: make_sentence_folder(tmp_path / name, encoder=encoders[name], **shared) for name in encoders}
    return {name: load_embedding_model(folder) for name, folder in folders.items()}


@pytest.mark.slow
@needs_onnx
def test_a_graph_gets_each_query_behind_its_prompt_and_gives_its_vector(models, tmp_path):
    encode = graph_encoder(models["a"], tmp_path)
    for query in QUERIES:
        torch.testing.assert_close(
            encode([query]), models["a"].encode([query], prompt_name="query"), atol=1e-5, rtol=0
        )
    runtime, ms = query_ms({"a": models["a"]}, QUERIES)
    assert runtime == ONNX_RUNTIME
    assert ms["a"] > 0


@needs_onnx
def test_a_model_that_has_no_graph_is_timed_in_torch_with_a_warning(models, monkeypatch, caplog):
    def fail(*given):
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setattr(deployable, "write_graph", fail)
    with caplog.at_level(logging.WARNING):
        runtime, ms = query_ms(models, QUERIES)
    assert runtime == TORCH
    assert len(ms) == 2
    assert "models can't be timed in ONNX Runtime, so torch is: no such operator" in caplog.text
