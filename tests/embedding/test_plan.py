"""`homodistil plan`: the limit below which layers leave is that of embedding models for their folders alone."""

import json

import pytest
from tiny_embeddings import make_reranker, make_sentence_folder

from homodistil_hf.cli import main
from homodistil_hf.embedding.trainer import EmbeddingDistilTrainer


@pytest.mark.parametrize(("make", "num_layers"), [(make_sentence_folder, 2), (make_reranker, 1)])
def test_layers_leave_below_the_limit_of_the_folders_method(tmp_path, monkeypatch, capsys, make, num_layers):
    monkeypatch.setattr(EmbeddingDistilTrainer, "fewer_layers_below", 0)
    folder = make(tmp_path / "teacher")
    (folder / "modules.json").touch()
    assert main(["plan", "--teacher", str(folder), "--student", "macs=0.25", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["student"]["num_hidden_layers"] == num_layers
