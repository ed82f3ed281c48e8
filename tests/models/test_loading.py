"""Messages about models that can't be loaded, and what no memory is taken for."""

import json

import pytest
from transformers import BertConfig, BertForMaskedLM

from homodistil_hf.models.loading import load_teacher, load_teacher_config

SHAPE = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture
def folder(tmp_path):
    BertForMaskedLM(BertConfig(**SHAPE, max_position_embeddings=8)).save_pretrained(tmp_path)
    return tmp_path


def damage(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def test_a_damaged_model_is_called_what_it_is_to_the_user(folder):
    damage(folder)
    with pytest.raises(ValueError, match="^teacher='.*': its weights are unreadable"):
        load_teacher(str(folder))
    with pytest.raises(ValueError, match="^model='.*': its weights are unreadable"):
        load_teacher(str(folder), called="model")
    with pytest.raises(ValueError, match="^folder='.*': its weights are unreadable"):
        load_teacher(str(folder), called="folder")


def test_a_configuration_is_called_what_it_is_to_the_user(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(ValueError, match="^folder='.*' has model_type='gpt2'; supported: bert, homobert"):
        load_teacher_config(str(tmp_path), called="folder")


def test_a_class_with_a_long_name_is_named_in_short(tmp_path):
    values = {"model_type": "bert", "architectures": ["x" * 10_000]}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match="^teacher class x{1000} is not supported"):
        load_teacher_config(str(tmp_path))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"0": {"head_dim": "8"}}, "expected an object: layer number"),
        ({"0": {"hidden_size": 8}}, "expected an object: layer number"),
        ({"0": {"intermediate_size": 1 << 30}}, "expected an object: layer number"),
        ([], "expected an object: layer number"),
        ({"x": {"head_dim": 8}}, "can't be used .*invalid literal for int"),
    ],
)
def test_widths_of_layers_are_checked_before_they_are_used(layers, message, tmp_path):
    values = {"model_type": "homobert", **SHAPE, "per_layer_config": layers}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_teacher_config(str(tmp_path))


def test_no_more_weights_are_described_than_there_are_bytes(folder, monkeypatch):
    monkeypatch.setattr("homodistil_hf.files.tensors._SPARE_PARAMETERS", 0)
    assert load_teacher(str(folder)).config.hidden_size == 16
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 1 << 20}))
    with pytest.raises(ValueError, match=r"holds [0-9,]+ bytes of weights, its config.json describes 16,"):
        load_teacher(str(folder))
