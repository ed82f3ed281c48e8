"""Folders of bits: written, replaced, checked; and what is found where one was damaged."""

import json
import shutil
import sys

import pytest
import torch
from rows import each
from safetensors.torch import load_file, save_file
from tiny_files import change_json
from tiny_models import make_teacher, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from homodistil_hf import verify_export
from homodistil_hf.cli import main
from homodistil_hf.export.facts import file_facts
from homodistil_hf.files.checkpoints import file_digest
from homodistil_hf.methods.binarization.binarizing import calibrate, to_binary
from homodistil_hf.methods.binarization.bit_products import compiled, multiply_bits
from homodistil_hf.methods.binarization.folder import export_packed
from homodistil_hf.models.architectures.modeling_binarybert import BinaryBertForSequenceClassification


def binarized(task="sequence_classification"):
    model = to_binary(make_teacher(task), activation_bits=1).eval()
    calibrate(model, {"input_ids": torch.arange(5, 21)[None]})
    return model


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    torch.manual_seed(0)
    return export_packed(binarized(), tmp_path_factory.mktemp("packed") / "bits")


@pytest.fixture
def folder(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "bits")


@pytest.mark.slow
@each("task", ["sequence_classification", "token_classification", "question_answering"])
def test_every_head_is_verified_without_this_package(task, tmp_path, capsys):
    export_packed(binarized(task), tmp_path / "bits")
    assert main(["verify", str(tmp_path / "bits")]) == 0
    assert "all is well" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_folder_loads_as_multiplies_its_bits(folder, tmp_path, monkeypatch):
    """Its layers are classes of the folder's own modelling file."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
    rows = {"input_ids": torch.arange(5, 21)[None]}
    with torch.no_grad():
        unpacked = model(**rows).logits
        if compiled() is None:
            pytest.skip("no C compiler here")
        assert multiply_bits(model)
        assert model.bert.encoder.layer[0].output.dense.multiply is not None
        assert model(**rows).logits.equal(unpacked)


@pytest.mark.slow
def test_what_a_card_says_loads_model_and_tokenizer(forked_python, tmp_path):
    folder = export_packed(binarized(), tmp_path / "bits", tokenizer=tiny_tokenizer())
    code = (folder / "README.md").read_text(encoding="utf-8").split("```")[1].removeprefix("python")
    asked = "print(type(model).__name__, len(tokenizer))"
    run = [sys.executable, "-c", code + asked]
    found = forked_python.run(run, cwd=folder, check=True)
    assert "activations of 1 bit;" in (folder / "README.md").read_text(encoding="utf-8")
    assert found.stdout.split() == ["BinaryBertForSequenceClassification", str(len(tiny_tokenizer()))]


def test_other_bits_are_not_those_that_were_unpacked_before(folder):
    model, other = (BinaryBertForSequenceClassification.from_pretrained(folder).eval() for _ in range(2))
    rows = torch.arange(5, 21)[None]
    layer = other.bert.encoder.layer[0].intermediate.dense
    layer.packed.bitwise_not_()
    with torch.no_grad():
        before, wanted = model(rows).logits, other(rows).logits
        model.load_state_dict(other.state_dict())
        assert model(rows).logits.equal(wanted)
        assert not wanted.equal(before)


def test_a_file_is_no_larger_than_its_bits_and_floats(tmp_path):
    """Counted from the configuration, header included; at the sizes of small real models names weigh little."""
    vocabulary, hidden, inner, positions, layers = 8000, 256, 1024, 512, 2
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=inner,
        max_position_embeddings=positions,
    )
    folder = export_packed(to_binary(BertForSequenceClassification(config), activation_bits=1), tmp_path / "bits")
    bits = vocabulary * hidden + layers * (4 * hidden * hidden + 2 * hidden * inner)
    per_layer = 4 * hidden + inner + hidden + 4 * hidden  # biases and two LayerNorms
    floats = (positions + 2) * hidden + 2 * hidden + layers * per_layer + hidden * hidden + hidden + 2 * hidden + 2
    assert (folder / "model.safetensors").stat().st_size <= 1.05 * (bits / 8 + 4 * floats)


def test_an_earlier_folder_is_replaced_where_that_is_wanted(folder):
    with pytest.raises(ValueError, match="holds an export already"):
        export_packed(binarized(), folder)
    export_packed(binarized(), folder, overwrite=True)
    (folder / "mine.txt").touch()
    with pytest.raises(ValueError, match=r"files that no export wrote \(mine.txt\)"):
        export_packed(binarized(), folder, overwrite=True)


def problem_of(folder):
    report = verify_export(folder)
    assert not report.ok
    return report.problems[0]


def listed_anew(folder, *names):
    facts = json.loads((folder / "facts.json").read_text())["files"]
    for name in names:
        facts[name] |= {"sha256": file_digest(folder / name), "size_bytes": (folder / name).stat().st_size}
    change_json(folder / "facts.json", files=facts)


def test_what_is_damaged_is_told(folder):
    change_json(folder / "facts.json", auto_class="AutoModelForCausalLM")
    assert problem_of(folder).startswith("facts.json: expected auto_class, found 'AutoModelForCausalLM'")
    change_json(folder / "facts.json", auto_class="AutoModelForSequenceClassification")
    (folder / "extra.bin").write_bytes(b"x")
    assert "unexpected pickle" in problem_of(folder)


def test_other_code_is_not_run(folder):
    path = folder / "modeling_binarybert.py"
    path.write_text(path.read_text() + "\nraise SystemExit\n")
    assert problem_of(folder).startswith("modeling_binarybert.py")
    listed_anew(folder, "modeling_binarybert.py")
    assert "expected this package's own file" in problem_of(folder)
    path.unlink()
    assert "found nothing" in problem_of(folder)


@pytest.mark.parametrize("names_it", [True, False])
def test_a_fourth_modelling_file_is_not_run(folder, names_it):
    """As a forger leaves it: listed in the facts, and named in `auto_map` or imported by nothing yet."""
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    config = json.loads((folder / "config.json").read_text())
    if names_it:
        config["auto_map"]["AutoModelForSequenceClassification"] = "modeling_evil.Model"
        (folder / "config.json").write_text(json.dumps(config))
    change_json(folder / "facts.json", files=file_facts(folder))
    problems = verify_export(folder).problems
    assert problems[-1].startswith("modeling_evil.py: expected no code beside modeling_binarybert.py, ")
    assert problems[0].startswith("config.json auto_map: expected {") == names_it


def test_other_weights_are_found_by_what_they_answer(folder):
    tensors = load_file(folder / "model.safetensors")
    name = "classifier.weight"
    save_file(tensors | {name: -tensors[name]}, folder / "model.safetensors", metadata={"format": "pt"})
    listed_anew(folder, "model.safetensors")
    assert "logits in memory: expected a relative difference of at most 0.1" in problem_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positions", "message"),
    [
        *((positions, "expected positions and logits") for positions in (["a"], [0.5], [True])),
        ([], "logits in memory: expected a relative difference of at most 0.1, found inf"),
        ([10**6], "can't be loaded: index 1000000 is out of bounds"),
    ],
)
def test_facts_without_logits_are_refused(folder, positions, message):
    probe = json.loads((folder / "facts.json").read_text())["probe"]
    change_json(folder / "facts.json", probe=probe | {"logits": [1.0], "positions": positions})
    assert message in problem_of(folder)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; expected a whole number"),
        ({"vocab_size": 1 << 23, "hidden_size": 1 << 13, "head_dim": None}, "its config.json describes"),
        ({"attn_implementation": "kernels/evil"}, "expected eager or sdpa"),
    ],
)
def test_configurations_of_bits_are_checked_before_weights_are_read(folder, values, message):
    change_json(folder / "config.json", **values)
    listed_anew(folder, "config.json")
    assert message in problem_of(folder)


def test_a_card_has_the_metrics_of_models_that_answer_all_rows_alike(tmp_path):
    forms = {"float": {"accuracy": 0.55, "is_constant": True}, "stage-1": {"activation_bits": 1, "accuracy": 0.5}}
    for name, metrics in (("one", forms), ("other", dict(reversed(forms.items())))):
        card = (export_packed(binarized(), tmp_path / name, facts={"metrics": metrics}) / "README.md").read_text()
        assert "|  | accuracy |" in card
        assert "is_constant" not in card
