"""Hostile input ends in success or in an error of ours: every bug that the fuzzer has found, and three properties."""

import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import tiny_tokenizer
from transformers import BertConfig, BertTokenizer

from benchmarks.reliability.fuzz import is_own
from benchmarks.reliability.fuzz_samples import SHAPE, make_checkpoint, make_export, tiny_teacher
from homodistil_hf import HomoDistilTrainingArguments, load_text
from homodistil_hf.data.blocks import TextPacker
from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.data.samples import unlabeled_batches
from homodistil_hf.export.export_folder import check_target, convert_export
from homodistil_hf.export.student_in_folder import checkpoint_student
from homodistil_hf.files.checkpoints import SCORES_FILE, STATE_FILE, check_manifest, write_manifest
from homodistil_hf.files.inside import stays_inside
from homodistil_hf.files.strict_json import parse_json, read_json
from homodistil_hf.files.tensors import load_tensors
from homodistil_hf.models.loading import check_config_values, load_encoder, load_encoder_config
from homodistil_hf.models.tokenizers import check_tokenizer_files, load_tokenizer, stored_tokenizer
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
@given(texts=st.lists(st.none() | st.text(st.characters(), max_size=60), max_size=4))
def test_any_text_is_cut_into_blocks(texts):
    blocks = TextPacker(tiny_tokenizer(), 8, "text")(texts)["input_ids"]
    assert blocks.shape[1:] == (8,)
    assert 0 <= blocks.min(initial=0) <= blocks.max(initial=0) < SHAPE["vocab_size"]


# Settings, plans and budgets


def test_a_pipe_is_no_json(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(ValueError, match="x is a folder or device; name a JSON file"):
        read_json(tmp_path / "manifest.json", "x")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        check_manifest(tmp_path)


def test_a_link_to_itself_is_no_json(tmp_path):
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(OSError, match="x can't be read"):
        read_json(tmp_path / "x", "x")


def test_json_larger_than_any_config_is_not_read(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ValueError, match="x has 67,108,865 bytes; expected JSON of at most"):
        read_json(tmp_path / "x", "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9" * 5000, "holds 9{40}, which is no JSON or beyond every float"),
        ("1e999", "holds 1e999, which is no JSON or beyond every float"),
        ("-Infinity", "holds -Infinity, which is no JSON"),
        ('{"a": 1, "a": 2}', "has the key 'a' more than once"),
        ('["\\ud800"]', r"holds half a character, '\\ud800'"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_only_looks_like_it_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text, "x")


def test_a_nul_in_the_path_of_a_config_is_named():
    with pytest.raises(ValueError, match=r"config='a\\x00b' has a NUL in its path"):
        parse_run(["a\0b"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_steps", "x" * 100_000], "invalid int value: 'xxx"),
        (["--" + "x" * 100_000, "1"], "unknown key --xxx"),
        (["--seed", "1", "x" * 100_000], "unexpected argument 'xxx"),
    ],
)
def test_a_message_does_not_repeat_a_whole_novel(words, message):
    with pytest.raises(ValueError, match=message) as error:
        parse_run(words)
    assert len(str(error.value)) < 2000


def test_a_key_of_any_length_is_named_in_short(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"x" * 100_000: 1}))
    with pytest.raises(ValueError, match="unknown key 'xxx") as error:
        parse_run([str(tmp_path / "config.json")])
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), "x" * 10_000, [1] * 10_000])
def test_settings_beyond_every_float_are_out_of_range(value, tmp_path):
    with pytest.raises(ValueError, match="^kl_weight=.* is outside") as error:
        HomoDistilTrainingArguments(output_dir=str(tmp_path), kl_weight=value)
    assert len(str(error.value)) < 300


def test_a_budget_of_very_many_digits_is_refused_at_once():
    with pytest.raises(ValueError, match="is no number of macs"):
        plan_for_budget("macs=" + "9" * 200_000 + "%", BertConfig(**SHAPE))


def test_a_share_beyond_every_float_is_refused():
    with pytest.raises(ValueError, match="^student='macs=inf' is no number of macs"):
        resolve_plan(10**399, BertConfig(**SHAPE))


@pytest.mark.parametrize(("multiple", "nearest"), [(0, 1), (10**399, 2**31 - 1)])
def test_a_multiple_beyond_every_model_is_refused(multiple, nearest):
    with pytest.raises(ValueError, match=f"is no width to round to; nearest valid: {nearest}"):
        plan_for_budget("macs=0.5", BertConfig(**SHAPE), multiple=multiple)


# Models on disk


@pytest.mark.parametrize("name", ["x" * 100_000, "a\0b", "~no_such_user/x", "../../x y"])
def test_a_teacher_that_is_none_is_named_in_short(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="^teacher=.*(can't be read|does not exist)") as error:
        load_encoder_config(name)
    assert len(str(error.value)) < 3000


def test_a_weight_file_with_a_long_name_is_named_in_short(tmp_path):
    tiny_teacher().save_pretrained(tmp_path, max_shard_size="8KB")
    index = tmp_path / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["bert.embeddings.LayerNorm.bias"] = "x" * 10_000
    index.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="its weights are unreadable") as error:
        load_encoder(str(tmp_path))
    assert len(str(error.value)) < 3000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 10**12}, "vocab_size=1000000000000; expected a whole number from 1 to 16777216"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; expected .* to 1024"),
        ({"num_labels": 10**9}, "num_labels=1000000000; expected"),
        ({"num_attention_heads": 0}, "num_attention_heads=0; expected"),
        ({"hidden_size": True}, "hidden_size=True; expected a whole number"),
        ({"layer_norm_eps": "1e-12"}, "can't be used .*'layer_norm_eps' expected float, got str"),
        ({"torch_dtype": "load"}, "torch_dtype='load'; expected one of float16"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation='evil/kernel'; expected eager or sdpa"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.*only unquantized"),
        ({"to_dict": 5}, "the key 'to_dict', which belongs to the class itself"),
        ({"attribute_map": {"a": "b"}}, "the key 'attribute_map', which belongs to the class"),
        ({"pad_token_id": 64}, "can't be used .*pad_token_id=64 is none of vocab_size=64 tokens"),
        ({"architectures": [5]}, r"architectures=\[5\]; expected a list of class names"),
        ({"id2label": {"x": "y"}}, "can't be used .*invalid literal for int"),
        ({"per_layer_config": {"0": {"head_dim": -1}}}, "per_layer_config=.*layer number"),
        ({"model_type": ["bert"]}, r"model_type=\['bert'\]; supported"),
    ],
)
def test_a_configuration_is_checked_before_it_is_used(values, message, tmp_path):
    text = json.dumps({"model_type": "homobert", **SHAPE, **values})
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_encoder_config(str(tmp_path))


def test_what_transformers_writes_is_a_configuration_that_may_be_used():
    check_config_values(BertConfig().to_dict(), BertConfig, "config.json")
    values = BertConfig(num_labels=5, problem_type="regression", dtype="bfloat16").to_dict()
    check_config_values(values, BertConfig, "config.json")


def header_of(tensors, data=b""):
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text + data


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header too small"),
        (b"\xff" * 8, "header too large"),
        (header_of({"a": TENSOR}), "incomplete metadata, file not fully covered"),
        (header_of({"a": TENSOR}, bytes(12)), "incomplete metadata, file not fully covered"),
        (header_of({"a": TENSOR, "b": TENSOR}, bytes(8)), "invalid offset for tensor `[ab]`"),
        (header_of({"a": TENSOR | {"shape": [3]}}, bytes(8)), "invalid shape, data type, or offset"),
        (header_of({"a": TENSOR | {"shape": [-2]}}, bytes(8)), "invalid value: integer `-2`"),
        (header_of({"a": TENSOR | {"dtype": "F31"}}, bytes(8)), "unknown variant `F31`"),
        (header_of({"a": TENSOR | {"data_offsets": [8, 0]}}, bytes(8)), "invalid offset for tensor `a`"),
        (header_of({"a": {}}), "missing field `dtype`"),
        (header_of([1]), "invalid type: sequence"),
    ],
)
def test_a_header_tells_of_its_own_file(content, message, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^file='.*x.safetensors' .*{message}"):
        load_tensors(path)


@pytest.mark.parametrize("name", ["../escaped.safetensors", "/etc/passwd", "..\\x", "C:x", "a\0b", ""])
def test_an_index_names_no_file_outside_its_folder(name, tmp_path):
    tiny_teacher().save_pretrained(tmp_path, max_shard_size="8KB")
    index = tmp_path / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["bert.embeddings.LayerNorm.bias"] = name
    index.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="which is outside the folder; expected files in it"):
        load_encoder(str(tmp_path))


def test_an_index_names_files_and_no_pipes(tmp_path):
    tiny_teacher().save_pretrained(tmp_path, max_shard_size="8KB")
    part = min(tmp_path.glob("model-*"))
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(ValueError, match="names 'model-.*', which is a folder or device; expected files"):
        load_encoder(str(tmp_path))


def test_no_memory_is_taken_for_weights_that_are_not_there(tmp_path):
    tiny_teacher().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 16_000_000, "hidden_size": 65_536}))
    with pytest.raises(ValueError, match="bytes of weights, its config.json describes 1,082,[0-9,]* weights"):
        load_encoder(str(tmp_path))


# Tokenizers


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "tokenizer_config.json",
            {"chat_template": [{"name": "../x", "template": ""}]},
            "chat_template called '../x'",
        ),
        ("tokenizer_config.json", {"chat_template": {"a/b": ""}}, "chat_template called 'a/b'"),
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "vocab_file='/etc/passwd', which is outside"),
        ("tokenizer_config.json", {"tokenizer_class": 5}, "its tokenizer can't be loaded"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "None"}}, "its tokenizer can't be loaded"),
        ("tokenizer.json", {"model": {"type": "WordPiece", "vocab": {"a": 2**31}}}, "expected token ids of at most"),
    ],
)
def test_a_tokenizer_stays_in_its_folder(file, change, message, tmp_path):
    tiny_teacher().config.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert stored_tokenizer(tmp_path).get_vocab() == tiny_tokenizer().get_vocab()
    path = tmp_path / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        stored_tokenizer(tmp_path)


def test_a_path_of_another_machine_does_no_harm(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"vocab_file": "/no/such/vocab.txt", "name_or_path": "/home/x"}')
    check_tokenizer_files(tmp_path, "folder")


@pytest.mark.parametrize(
    "names", ["x", 5, [], [{"input_ids": 1}], ["token_type_ids", "input_ids"], ["input_ids", [1]], ["INPUT_IDS"]]
)
def test_a_tokenizer_names_its_inputs_token_ids_first(names, tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": names}))
    with pytest.raises(ValueError, match="has model_input_names=.*; expected input_ids first|can't be loaded"):
        load_tokenizer(tmp_path)


def test_batches_of_texts_need_a_padding_token():
    tokenizer = BertTokenizer(vocab={"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3}, pad_token=None)
    with pytest.raises(ValueError, match="has no padding token, which batches of texts need; give it one"):
        unlabeled_batches([["a", "a a"]], tokenizer)


# Checkpoints


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoint-4"
    make_checkpoint(folder)
    return folder


@pytest.fixture
def copied(checkpoint, tmp_path):
    """A checkpoint of one's own, and how to change it so that its digests agree."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-4")

    def change(values=None, tensors=None):
        if values is not None:
            path = folder / STATE_FILE
            state = json.loads(path.read_text())
            values(state)
            path.write_text(json.dumps(state))
        if tensors is not None:
            path = folder / SCORES_FILE
            held = load_file(path)
            tensors(held)
            save_file(held, path)
        write_manifest(folder)
        return folder

    return change


def read(folder):
    return checkpoint_student(check_manifest(folder), format="standard", allow_partial=True)


def test_a_checkpoint_that_agrees_is_read(copied):
    assert read(copied())[0].config.hidden_size == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("full"), "lacks full; expected"),
        (lambda state: state.update(is_finished="no"), "is_finished='no'; expected a value of type bool"),
        (lambda state: state["pruner"].update(plan_reached="no"), "plan_reached='no'; expected"),
    ],
)
def test_a_state_that_no_run_has_written_is_refused(copied, change, message):
    with pytest.raises(ValueError, match=message):
        read(copied(values=change))


@pytest.mark.parametrize("change", [{"format": "x" * 100_000}, {"sha256": {"x" * 100_000: "0"}}])
def test_a_manifest_is_not_repeated_in_its_message(checkpoint, tmp_path, change):
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint-4")
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match="can't be used: .*there is no other checkpoint") as error:
        check_manifest(folder)
    assert len(str(error.value)) < 1000


def test_facts_of_an_export_are_read_back(tmp_path):
    assert make_export(tmp_path / "x")["facts_version"] == 1


# Text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": ["a"]}, "input_ids=.*expected a flat list of integers"),
        ({"input_ids": [[1], [1, 2]]}, "expected a flat list of integers"),
        ({"input_ids": [1.5]}, "expected a flat list of integers"),
        ({"input_ids": [10**30]}, "expected a flat list of integers"),
        ({"input_ids": 5}, "expected a flat list of integers"),
        ({"input_ids": [-1]}, "has -1 among its input_ids"),
        ({"input_ids": [5, 6], "attention_mask": [1]}, "1 values of attention_mask, but 2 input_ids"),
        ({"input_ids": [5, 6], "token_type_ids": None}, "token_type_ids=None; expected a flat list"),
        ({"input_ids": [5], "example_id": "x"}, "example_id='x'; expected an integer"),
        (5, "a row is 5; expected a mapping"),
    ],
)
def test_rows_that_are_no_tokens_are_refused(row, message):
    with pytest.raises(ValueError, match=message):
        MaskedLMCollator(tiny_tokenizer())([row])


def test_no_rows_are_no_batch():
    with pytest.raises(ValueError, match="is no list of rows; expected at least one row"):
        MaskedLMCollator(tiny_tokenizer())([])


def test_half_a_character_is_an_unknown_one():
    packer = TextPacker(tiny_tokenizer(), 8, "text")
    assert (packer.encode(["w7 \ud800 w8"]) == packer.encode(["w7 \ufffd w8"])).all()


def archives():
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("../../escaped.txt", "w7")
    with tarfile.open(fileobj=tarred, mode="w") as file:
        file.addfile(tarfile.TarInfo("../../escaped.txt"))
    return {"gzip": gzip.compress(b"w7"), "zip": zipped.getvalue(), "tar": tarred.getvalue()}


@pytest.mark.parametrize("kind", ["gzip", "zip", "tar"])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_an_archive_under_another_name_is_not_unpacked(kind, suffix, tmp_path):
    (tmp_path / f"x{suffix}").write_bytes(archives()[kind])
    with pytest.raises(ValueError, match=f"x{suffix} is a {kind} archive under another name; unpack it first"):
        load_text(tmp_path / f"x{suffix}")


def test_links_that_go_in_circles_are_walked_once(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("w7 w8")
    (tmp_path / "sub" / ".hidden.txt").write_text("w9")
    for name in ("one", "two", "three"):
        (tmp_path / name).symlink_to(tmp_path)
        (tmp_path / "sub" / name).symlink_to(tmp_path)
    for pattern in ("**/*.txt", "**", "sub/**/a.txt"):
        assert [row["text"] for row in load_text(str(tmp_path / pattern), streaming=True)] == ["w7 w8"], pattern


@pytest.mark.parametrize(
    ("source", "message"), [("~no_such_user_here/x.txt", "does not exist"), ("a\0b.txt", "has a NUL in its path")]
)
def test_paths_that_are_none_are_named(source, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_text(source)


# Facts


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts.pop("forms"), "has forms=None, which no export has"),
        (lambda facts: facts.update(files=[]), r"has files=\[\]"),
        (lambda facts: facts["forms"].pop("compact"), "has forms=.*which no export has"),
        (lambda facts: facts["teacher"].update(size_bytes=0), "has teacher=.*which no export has"),
        (lambda facts: facts["teacher"].update(hub_id="../x"), "has teacher=.*which no export has"),
        (lambda facts: facts.update(training=[1]), r"has training=\[1\]"),
    ],
)
def test_facts_that_no_export_has_are_refused(tmp_path, change, message):
    facts = make_export(tmp_path / "x")
    change(facts)
    (tmp_path / "x" / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=message):
        convert_export(tmp_path / "x", tmp_path / "y", "compact")


@pytest.mark.parametrize("files", [None, [], "x", 5])
def test_nothing_is_replaced_when_facts_do_not_tell_its_files(tmp_path, files):
    facts = make_export(tmp_path / "x")
    (tmp_path / "x" / "facts.json").write_text(json.dumps(facts | {"files": files}))
    with pytest.raises(ValueError, match="has files=.*which no export has"):
        check_target(tmp_path / "x", overwrite=True)
