"""Times of a query: in ONNX Runtime on one core where it is installed and takes the models, else in torch."""

import logging

import numpy as np
import pytest
from deployed import needs_onnx
from tiny_embeddings import make_sentence_folder
from tiny_models import randomized, tiny_config
from transformers import BertModel

from homodistil_hf.embedding import deployable
from homodistil_hf.embedding.deployable import ONNX_RUNTIME, TORCH, query_ms
from homodistil_hf.embedding.reading import load_embedding_model

QUERIES = ["w10 w11", "w12 w13 w14 w15"]


@pytest.fixture
def models(tmp_path):
    encoders = {name: randomized(BertModel(tiny_config(num_hidden_layers=1)), seed=ord(name)) for name in ("a", "b")}
    shared = {"prompts": {"query": "w20 w21 w22"}}
    folders = {name: make_sentence_folder(tmp_path / name, encoder=encoders[name], **shared) for name in encoders}
    return {name: load_embedding_model(folder) for name, folder in folders.items()}


@needs_onnx
def test_graphs_get_each_query_behind_its_prompt_and_give_its_vector(models, monkeypatch):
    make, found = deployable.onnx_session, []

    class Session:
        def __init__(self, path, *, num_threads):
            assert num_threads == 1
            self.session = make(path, num_threads=num_threads)

        def run(self, names, inputs):
            found.append((inputs["input_ids"].tolist(), self.session.run(names, inputs)[-1]))

    monkeypatch.setattr(deployable, "onnx_session", Session)
    runtime, ms = query_ms(models, QUERIES)
    assert runtime == ONNX_RUNTIME
    assert list(ms) == ["a", "b"]
    assert min(ms.values()) > 0
    assert len(found) == 2 * (1 + len(QUERIES))  # one before the clock runs, then in turns
    turns = [(model, query) for query in QUERIES for model in models.values()]
    for (model, query), (ids, vectors) in zip(turns, found[2:], strict=True):
        assert ids == model.tokenize([query], "query")["input_ids"].tolist()
        np.testing.assert_allclose(vectors, model.encode([query], prompt_name="query"), atol=1e-5)


def test_without_the_extra_torch_is_timed(models, monkeypatch):
    monkeypatch.setattr(deployable, "missing_reason", lambda backend: f"{backend} is missing")
    runtime, ms = query_ms(models, QUERIES)
    assert runtime == TORCH
    assert list(ms) == ["a", "b"]
    assert min(ms.values()) > 0


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
