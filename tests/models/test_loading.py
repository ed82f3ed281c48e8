"""Messages about models that can't be loaded, and what no memory is taken for."""

import json

import pytest
from transformers import BertConfig, BertForMaskedLM

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.loading import load_encoder, load_encoder_config, refuse_architecture

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
        load_encoder(str(folder))
    with pytest.raises(ValueError, match="^model='.*': its weights are unreadable"):
        load_encoder(str(folder), argument="model")
    with pytest.raises(ValueError, match="^folder='.*': its weights are unreadable"):
        load_encoder(str(folder), argument="folder")


def test_a_configuration_is_called_what_it_is_to_the_user(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    with pytest.raises(ValueError, match="^folder='.*' has model_type='gpt2'; supported: bert, "):
        load_encoder_config(str(tmp_path), argument="folder")


def test_a_class_with_a_long_name_is_named_in_short(tmp_path):
    values = {"model_type": "bert", "architectures": ["x" * 10_000]}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match="^teacher class x{1000} is not supported"):
        load_encoder_config(str(tmp_path))
    with pytest.raises(ValueError, match="^folder class x{1000} is not supported"):
        load_encoder_config(str(tmp_path), argument="folder")


def test_a_decoder_is_refused_by_the_name_that_the_user_gave_it(tmp_path):
    values = {"model_type": "bert", "is_decoder": True}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match="^folder config has is_decoder=True, add_cross_attention=False; only enc"):
        load_encoder_config(str(tmp_path), argument="folder")


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
        load_encoder_config(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("problem_type", "ranking", r"has problem_type='ranking'; expected one of regression, single_label_classif"),
        ("problem_type", ["regression"], r"has problem_type=\['regression'\]; expected one of regression, single"),
        ("hidden_act", "gleu", r"has hidden_act='gleu'; expected an activation of transformers, such as gelu or relu"),
        ("hidden_act", None, r"has hidden_act=None; expected an activation of transformers, such as gelu or relu"),
        ("hidden_dropout_prob", 7.0, r"has hidden_dropout_prob=7.0; expected a number from 0 to 1"),
        ("attention_probs_dropout_prob", -1, r"has attention_probs_dropout_prob=-1; expected a number from 0 to 1"),
        ("classifier_dropout", 1.5, r"has classifier_dropout=1.5; expected a number from 0 to 1"),
        ("layer_norm_eps", -1e-12, r"has layer_norm_eps=-1e-12; expected a number from 0 to 1"),
    ],
)
def test_what_a_configuration_names_must_be_known(name, value, message, tmp_path):
    values = {"model_type": "bert", **SHAPE, "problem_type": "regression", "hidden_act": "gelu_new"}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    assert load_encoder_config(str(tmp_path)).problem_type == "regression"
    (tmp_path / "config.json").write_text(json.dumps(values | {name: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_encoder_config(str(tmp_path))


def test_a_link_to_nowhere_beside_the_weights_does_no_harm(folder):
    (folder / "pytorch_model.bin").symlink_to(folder / "gone")
    assert load_encoder(str(folder)).config.hidden_size == 16


def test_no_more_weights_are_described_than_there_are_bytes(folder, monkeypatch):
    monkeypatch.setattr("homodistil_hf.files.tensors._SPARE_PARAMETERS", 0)
    assert load_encoder(str(folder)).config.hidden_size == 16
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 1 << 20}))
    with pytest.raises(ValueError, match=r"holds [0-9,]+ bytes of weights, its config.json describes 16,"):
        load_encoder(str(folder))


@pytest.mark.parametrize(
    ("model_type", "name", "value", "message"),
    [
        ("roberta", "pad_token_id", None, "pad_token_id is null, but positions begin behind it: set it"),
        ("camembert", "max_position_embeddings", 2, "max_position_embeddings=2 leaves no token a position"),
        ("electra", "embedding_size", 1 << 40, r"has embedding_size=1099511627776; expected a whole number from 1 to"),
        ("distilbert", "dim", 0, r"has dim=0; expected a whole number from 1 to"),
        ("modernbert", "mlp_dropout", 2.0, r"has mlp_dropout=2.0; expected a number from 0 to 1"),
    ],
)
def test_what_other_architectures_call_theirs_is_checked_too(model_type, name, value, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, name: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_encoder_config(str(tmp_path))


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=list(ARCHITECTURES))
def test_a_bare_encoder_of_any_architecture_is_told_which_class_to_take(architecture):
    with pytest.raises(
        ValueError,
        match=f"{architecture.encoder_name} is not supported; .*load it as .*ForMaskedLM if .*docs/embeddings.md",
    ):
        refuse_architecture(architecture.encoder_name)
