"""Forms of tiny embedding models, timed and measured."""

import json
import sys

import pytest
from tiny_embeddings import make_sentence_folder
from tiny_files import own_cache
from tiny_glue import write_task

from benchmarks import embedding_speed
from homodistil_hf.plans.latency.onnx_graph import missing_packages


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_packages()), reason="the [onnx] extra is not installed")
def test_forms_are_measured_side_by_side(tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    write_task(tmp_path / "glue", "stsb")
    folders = {name: make_sentence_folder(tmp_path / name, dense=dense) for name, dense in (("a", None), ("b", 5))}
    models = [f"{name}={folder}" for name, folder in folders.items()]
    monkeypatch.setattr(embedding_speed, "RECORD", tmp_path / "speed.json")
    monkeypatch.setattr(embedding_speed, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("<!-- speed -->\n<!-- /speed -->\n")
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(tmp_path), "--num_rounds", "1", "--models", *models])
    embedding_speed.main()
    found = json.loads((tmp_path / "speed.json").read_text())["models"]
    for name in ("a", "b"):
        told = [found[name][form] for form in embedding_speed.FORMS]
        assert told[1]["stsb"] == pytest.approx(told[0]["stsb"], abs=1e-3)
        assert told[2]["size_bytes"] < told[1]["size_bytes"]
        assert all(one["sentences_per_s, 32 at once"] > 0 for one in told)
    assert found["a"]["torch"]["stsb"] != found["b"]["torch"]["stsb"]
    assert "| b | onnxruntime, int8 |" in (tmp_path / "page.md").read_text()
