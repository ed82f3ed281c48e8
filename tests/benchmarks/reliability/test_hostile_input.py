"""Hostile input ends in success or in an error of ours: three properties, and inputs that once did not."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import each
from tiny_models import tiny_tokenizer
from transformers import BertConfig

from benchmarks.reliability.fuzz import is_own
from benchmarks.reliability.fuzz_samples import SHAPE, tiny_teacher
from homodistil_hf import HomoDistilTrainingArguments, load_text
from homodistil_hf.data.blocks import TextPacker
from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.files.checkpoints import check_manifest
from homodistil_hf.files.inside import stays_inside
from homodistil_hf.files.strict_json import parse_json, read_json
from homodistil_hf.files.tensors import load_tensors
from homodistil_hf.models.loading import load_encoder, load_encoder_config
from homodistil_hf.models.tokenizers import load_tokenizer, stored_tokenizer
from homodistil_hf.plans.budgets import plan_for_budget
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.runs.config import parse_run

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# Properties


@contextmanager
def judged():
    """What is raised inside is one of our own errors."""
    own = None
    try:
        yield
    except ValueError as error:
        own = is_own(error) or repr(error)
    assert own in (None, True)


@QUICK
@given(content=st.binary(max_size=300))
def test_any_bytes_are_json_or_refused(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with judged():
        value = read_json(path, "file")
        assert json.loads(json.dumps(value)) == value


@QUICK
@given(
    name=st.text(max_size=30)
    | st.lists(st.sampled_from(("..", ".", "a", "", "/", "\\", "C:")), max_size=6).map("/".join)
)
def test_a_name_that_stays_inside_never_leaves_its_folder(name, tmp_path):
    if stays_inside(name) and not {*name} & {*map(chr, range(0xD800, 0xE000))}:
        assert (tmp_path / name).resolve().is_relative_to(tmp_path.resolve())


@QUICK
@given(texts=st.lists(st.none() | st.text(max_size=60), max_size=4))
def test_any_text_is_cut_into_blocks(texts):
    blocks = TextPacker(tiny_tokenizer(), 8, "text")(texts)["input_ids"]
    assert blocks.shape[1:] == (8,)
    assert 0 <= blocks.min(initial=0) <= blocks.max(initial=0) < SHAPE["vocab_size"]


# Settings, plans and budgets


def written(folder, name, values):
    (folder / name).write_text(json.dumps(values))
    return folder


HUGE = "x" * 100_000
BERT = BertConfig(**SHAPE)


@each(
    ("act", "message"),
    [
        (lambda _: parse_run(["a\0b"]), r"config='a\\x00b' has a NUL in its path"),
        (lambda _: parse_run(["--max_steps", HUGE]), "invalid int value: 'xxx"),
        (lambda _: parse_run(["--" + HUGE, "1"]), "unknown key --xxx"),
        (lambda folder: parse_run([str(written(folder, "x.json", {HUGE: 1}) / "x.json")]), "unknown key 'xxx"),
        (lambda folder: HomoDistilTrainingArguments(str(folder), kl_weight=10**400), "^kl_weight=.* is outside"),
        (lambda _: plan_for_budget("macs=" + "9" * 200_000 + "%", BERT), "is no number of macs"),
        (lambda _: resolve_plan(10**399, BERT), "^student='macs=inf' is no number of macs"),
        (lambda _: load_encoder_config(HUGE), "^teacher=.*can't be read"),
        (lambda _: load_encoder_config("a\0b"), "^teacher=.*(can't be read|does not exist)"),
        (lambda folder: load_encoder(with_index(folder, "x" * 10_000)), "its weights are unreadable"),
        (lambda folder: check_manifest(written(folder, "manifest.json", {"format": HUGE})), "can't be used"),
        (lambda _: parse_json("9" * 5000, "x"), "holds 9{40}, which is no JSON or beyond every float"),
        (lambda _: parse_json("[" * 100_000, "x"), "nested too deeply"),
    ],
)
def test_what_is_beyond_every_use_is_named_in_short(act, message, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises((ValueError, OSError), match=message) as error:
        act(tmp_path)
    assert len(str(error.value)) < 3000


# Models on disk


@each(
    ("values", "message"),
    [
        ({"vocab_size": 10**12}, "vocab_size=1000000000000; expected a whole number from 1 to 16777216"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; expected .* to 1024"),
        ({"num_labels": 10**9}, "num_labels=1000000000; expected"),
        ({"num_attention_heads": 0}, "can't be used .*ZeroDivisionError"),
        ({"hidden_size": True}, "can't be used .*'hidden_size' expected int, got bool"),
        ({"layer_norm_eps": "1e-12"}, "can't be used .*'layer_norm_eps' expected float, got str"),
        ({"torch_dtype": "load"}, "can't be used"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation='evil/kernel'; expected eager or sdpa"),
        ({"transformers_weights": "x.safetensors.index.json"}, "transformers_weights=.*weights have their usual"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.*only unquantized"),
        ({"to_dict": 5}, "the key 'to_dict', which belongs to the class itself"),
        ({"attribute_map": {"a": "b"}}, "the key 'attribute_map', which belongs to the class"),
        ({"pad_token_id": 64}, "can't be used .*pad_token_id=64 is none of vocab_size=64 tokens"),
        ({"architectures": [5]}, r"architectures=\[5\]; expected a list of class names"),
        ({"id2label": {"x": "y"}}, "can't be used .*invalid literal for int"),
        ({"per_layer_config": {"0": {"head_dim": -1}}}, "has head_dim=-1; expected"),
        ({"model_type": ["bert"]}, r"model_type=\['bert'\]; supported"),
    ],
)
def test_a_configuration_is_checked_before_it_is_used(values, message, tmp_path):
    text = json.dumps({"model_type": "homobert", **SHAPE, **values})
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_encoder_config(str(tmp_path))


def header_of(tensors):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


@each(
    ("content", "message"),
    [
        (b"\xff" * 8, "header too large"),
        (header_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), "incomplete metadata"),
        (header_of({"a": {}}), "missing field `dtype`"),
    ],
)
def test_a_header_tells_of_its_own_file(content, message, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^file='.*x.safetensors' .*{message}"):
        load_tensors(path)


def with_index(folder, name):
    """A model in several files, of which the index calls one by this name."""
    tiny_teacher().save_pretrained(folder, max_shard_size="8KB")
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["bert.embeddings.LayerNorm.bias"] = name
    index.write_text(json.dumps(values))
    return str(folder)


@each("name", ["../escaped.safetensors", "/etc/passwd", "..\\x", "C:x", "a\0b", ""])
def test_an_index_names_no_file_outside_its_folder(name, tmp_path):
    with pytest.raises(ValueError, match="which is outside the folder; expected files in it"):
        load_encoder(with_index(tmp_path, name))


# Tokenizers


@each(
    ("file", "change", "message"),
    [
        (
            "tokenizer_config.json",
            {"chat_template": [{"name": "../x", "template": ""}]},
            "chat_template called '../x'",
        ),
        ("tokenizer_config.json", {"chat_template": {"a/b": ""}}, "chat_template called 'a/b'"),
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "vocab_file='/etc/passwd', which is outside"),
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.4.json"]}, "files=.*, which is outside"),
        ("tokenizer_config.json", {"vocab": "beside.txt"}, "vocab='beside.txt', which is outside"),
        ("special_tokens_map.json", {"tokenizer_file": "/etc/passwd"}, "file='/etc/passwd', which is outside"),
        ("special_tokens_map.json", {"gguf_file": "x", "name_or_path": "a/b"}, "gguf_file='x', which is outside"),
        ("tokenizer_config.json", {"tokenizer_class": 5}, "its tokenizer can't be loaded"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "None"}}, "its tokenizer can't be loaded"),
    ],
)
def test_a_tokenizer_stays_in_its_folder(file, change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tokenizer.4.json", "beside.txt"):
        Path(name).touch()
    folder = tmp_path / "model"
    tiny_teacher().config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    assert stored_tokenizer(folder).get_vocab() == tiny_tokenizer().get_vocab()
    path = folder / file
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | change))
    with pytest.raises(ValueError, match=message):
        stored_tokenizer(folder)


@each("names", ["x", 5, [], [{"input_ids": 1}], ["token_type_ids", "input_ids"], ["input_ids", [1]], ["INPUT_IDS"]])
def test_a_tokenizer_names_its_inputs_token_ids_first(names, tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": names}))
    with pytest.raises(ValueError, match="has model_input_names=.*; expected input_ids first|can't be loaded"):
        load_tokenizer(tmp_path)


# Text


@each(
    ("row", "message"),
    [
        ({"input_ids": ["a"]}, "input_ids=.*expected a flat list of integers"),
        ({"input_ids": [[1, 2]]}, "expected a flat list of integers"),
        ({"input_ids": [1.5]}, "expected a flat list of integers"),
        ({"input_ids": [10**30]}, "expected a flat list of integers"),
        ({"input_ids": 5}, "expected a flat list of integers"),
        ({"input_ids": [5, 6], "attention_mask": [1]}, "1 values of attention_mask, but 2 input_ids"),
        ({"input_ids": [5, 6], "token_type_ids": None}, "token_type_ids=None; expected a flat list"),
    ],
)
def test_rows_that_are_no_tokens_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        MaskedLMCollator(tiny_tokenizer())([row])


def test_links_that_go_in_circles_are_walked_once(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("w7 w8")
    (tmp_path / "sub" / ".hidden.txt").write_text("w9")
    for name in ("one", "two", "three"):
        (tmp_path / name).symlink_to(tmp_path)
        (tmp_path / "sub" / name).symlink_to(tmp_path)
    for pattern in ("**/*.txt", "**", "sub/**/a.txt"):
        assert [row["text"] for row in load_text(str(tmp_path / pattern), streaming=True)] == ["w7 w8"], pattern


@each(("source", "message"), [("~no_such_user_here/x.txt", "does not exist"), ("a\0b.txt", "does not exist")])
def test_paths_that_are_none_are_named(source, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_text(source)


# Facts
