"""Messages about models that can't be loaded, and what no memory is taken for."""

import json

import pytest
import torch
from rows import each
from safetensors.torch import load_file, save_file
from tiny_embeddings import make_sentence_folder
from tiny_models import make_teacher
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, BertModel

from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.files.tensors import WEIGHTS_FILE
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.loading import load_encoder, load_encoder_config, refuse_architecture

SHAPE = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture
def folder(tmp_path):
    BertForMaskedLM(BertConfig(**SHAPE, max_position_embeddings=8)).save_pretrained(tmp_path)
    return tmp_path


def test_a_model_is_called_what_it_is_to_the_user(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    for argument in ("teacher", "folder"):
        with pytest.raises(ValueError, match=f"^{argument}='.*': its weights are unreadable .*copy or download them"):
            load_encoder(str(folder), argument=argument)
    for values, message in (
        ({"model_type": "gpt2"}, "='.*' has model_type='gpt2'; supported: bert, "),
        ({"model_type": "bert", "architectures": ["x" * 10_000]}, " class x{1000} is not supported"),
    ):
        (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
        with pytest.raises(ValueError, match=f"^folder{message}"):
            load_encoder_config(str(folder), argument="folder")


@each(
    ("layers", "message"),
    [
        ({"0": {"head_dim": "8"}}, "expected an object: layer number"),
        ({"0": {"hidden_size": 8}}, "can't be used .*per-layer attribute"),
        ({"0": {"intermediate_size": 1 << 30}}, "has intermediate_size=1073741824; expected a whole number from 1 to"),
        ([], "expected an object: layer number"),
        ({"x": {"head_dim": 8}}, "can't be used .*invalid literal for int"),
    ],
)
def test_widths_of_layers_are_checked_before_they_are_used(layers, message, tmp_path):
    values = {"model_type": "homobert", **SHAPE, "per_layer_config": layers}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_encoder_config(str(tmp_path))


def test_no_more_weights_are_described_than_there_are_bytes(folder, monkeypatch):
    (folder / "pytorch_model.bin").symlink_to(folder / "gone")  # does no harm
    monkeypatch.setattr("homodistil_hf.files.tensors._SPARE_PARAMETERS", 0)
    assert load_encoder(str(folder)).config.hidden_size == 16
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 1 << 20}))
    with pytest.raises(ValueError, match=r"holds [0-9,]+ bytes of weights, its config.json describes 16,"):
        load_encoder(str(folder))


@each(
    ("model_type", "name", "value", "message"),
    [
        ("roberta", "pad_token_id", None, "pad_token_id is null, but positions begin behind it: set it"),
        ("camembert", "max_position_embeddings", 2, "max_position_embeddings=2 leaves no token a position"),
        ("electra", "embedding_size", 1 << 40, r"has embedding_size=1099511627776; expected a whole number from 1 to"),
        ("distilbert", "dim", -1, r"has dim=-1; expected a whole number from 1 to"),
    ],
)
def test_what_other_architectures_call_theirs_is_checked_too(model_type, name, value, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, name: value}), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_encoder_config(str(tmp_path))


@each("architecture", ARCHITECTURES.values())
def test_a_bare_encoder_of_any_architecture_is_told_which_class_to_take(architecture):
    name, stock = architecture.encoder.stock_name, architecture.heads[0].stock_name
    with pytest.raises(ValueError, match=f"{name} is not supported; .*load it as {stock} if .*modules.json beside it"):
        refuse_architecture(architecture.encoder.stock_name)


# Folders whose weights are not what their config describes


def rewritten(folder, *, weights=None, config=None, without=()):
    make_teacher(BertForSequenceClassification).save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k not in without}))
    if weights is not None:
        tensors = {name: tensor.contiguous() for name, tensor in weights(load_file(folder / WEIGHTS_FILE)).items()}
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    return folder


def without_two_heads(tensors):
    half = {name: tensor[:16] for name, tensor in tensors.items() if "layer.0.attention.self" in name}
    name = "bert.encoder.layer.0.attention.output.dense.weight"
    return tensors | half | {name: tensors[name][:, :16]}


THREE = {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
MISFITS = {
    "heads pruned": (
        {"weights": without_two_heads},
        r"of the shape \(32, 16\), .*; mend config\.json, or take the one that was saved with these weights",
    ),
    "saved from a wrapper": (
        {"weights": lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()}},
        r"weights named module\.bert\..* where bert\..*; take the prefix 'module\.' off",
    ),
    "saved from two wrappers": (
        {"weights": lambda tensors: {f"_orig_mod.module.{name}": tensor for name, tensor in tensors.items()}},
        r"take the prefix '_orig_mod\.module\.' off",
    ),
    "no model type": ({"without": ["model_type"]}, r"config\.json has no model_type; add the one"),
    "an empty model type": ({"config": {"model_type": None}}, r"config\.json has no model_type; add the one"),
    "more names than labels": ({"config": THREE}, r"its head has 2 labels: give id2label and label2id as many"),
    "fewer names than labels": (
        {"config": {"id2label": {"0": "a"}, "label2id": {"a": 0}}},
        r"its head has 2 labels: give id2label and label2id as many",
    ),
    "a larger vocabulary": (
        {"config": {"vocab_size": 200}},
        r"bert\.embeddings\.word_embeddings\.weight of the shape \(96, 32\), .*describes \(200, 32\); mend",
    ),
    "adapters": (
        {"weights": lambda tensors: tensors | {"bert.encoder.layer.0.lora_A.weight": torch.zeros(2, 2)}},
        r"holds adapters \(bert\..*lora_A.*merge_and_unload",
    ),
    "one layer more": ({"config": {"num_hidden_layers": 3}}, r"has no weights for bert\.encoder\.layer\.2\."),
}


@pytest.mark.slow
@each(("changes", "message"), MISFITS.values())
def test_weights_that_do_not_fit_are_named(changes, message, tmp_path, caplog):
    with pytest.raises(ValueError, match=message) as raised:
        load_encoder(rewritten(tmp_path, **changes))
    assert "copy or download" not in str(raised.value)
    assert "LOAD REPORT" not in caplog.text


# Values that are no numbers


@pytest.mark.parametrize(("value", "word"), [(float("inf"), "1 × Inf"), (float("nan"), "1 × NaN"), (-1e30, r"1e\+30")])
def test_a_parameter_that_is_not_finite_is_named(tmp_path, value, word):
    model = make_teacher()
    model.bert.embeddings.word_embeddings.weight.data[3, 4] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^teacher='.*' has {word} among the 3,072 values of .*word_embeddings"):
        load_encoder(str(tmp_path))
    with pytest.raises(ValueError, match=f"^model=BertForMaskedLM has {word} among"):
        to_student(model, argument="model")


# Paths


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_weights_is_told_with_its_folder(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x08" + bytes(20))
    for load in (load_encoder, load_encoder_config, load_embedding_model):
        with pytest.raises(ValueError, match=f"^teacher='{tmp_path}/{name}' is a file of weights; name its folder, '"):
            load(str(tmp_path / name))


def test_a_folder_without_a_model_says_so(tmp_path):
    for holds in ("it is empty", "it holds notes.txt"):
        with pytest.raises(
            OSError, match=f"^teacher='{tmp_path}' can't be read: there is no config.json .{holds}.; name "
        ):
            load_encoder_config(str(tmp_path))
        (tmp_path / "notes.txt").touch()


@pytest.mark.parametrize("kind", [BertModel, BertForMaskedLM])
def test_an_embedding_model_names_its_trainer(kind, tmp_path):
    """Also one whose file names a head that it hasn't, as many on the Hub do."""
    make_sentence_folder(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"architectures": [kind.__name__]}))
    with pytest.raises(ValueError, match="^model[= ].*trainer is EmbeddingDistilTrainer"):
        load_encoder(str(tmp_path), argument="model")
