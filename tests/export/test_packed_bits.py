"""Folders of bits: written, replaced, checked; and what is found where one was damaged."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_teacher

from homodistil_hf import verify_export
from homodistil_hf.cli import main
from homodistil_hf.export.packed_bits import export_packed
from homodistil_hf.files.checkpoints import file_digest
from homodistil_hf.models.binarizing import calibrate, to_binary


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


@pytest.mark.parametrize("task", ["sequence_classification", "token_classification", "question_answering"])
def test_every_head_is_verified_without_this_package(task, tmp_path, capsys):
    export_packed(binarized(task), tmp_path / "bits")
    assert main(["verify", str(tmp_path / "bits")]) == 0
    assert "all is well" in capsys.readouterr().out


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


def with_facts(folder, **changes):
    path = folder / "facts.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def listed_anew(folder, *names):
    facts = json.loads((folder / "facts.json").read_text())["files"]
    for name in names:
        facts[name] |= {"sha256": file_digest(folder / name), "size_bytes": (folder / name).stat().st_size}
    with_facts(folder, files=facts)


def test_what_is_damaged_is_told(folder):
    with_facts(folder, auto_class="AutoModelForCausalLM")
    assert problem_of(folder).startswith("facts.json: expected auto_class, found 'AutoModelForCausalLM'")
    with_facts(folder, auto_class="AutoModelForSequenceClassification", least_bytes=10)
    assert problem_of(folder).startswith("model.safetensors: expected at most 1.05 × 10 bytes")
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


def test_other_weights_are_found_by_what_they_answer(folder):
    tensors = load_file(folder / "model.safetensors")
    name = "classifier.weight"
    save_file(tensors | {name: -tensors[name]}, folder / "model.safetensors", metadata={"format": "pt"})
    listed_anew(folder, "model.safetensors")
    assert "logits in memory: expected a relative difference of at most 0.1" in problem_of(folder)


@pytest.mark.parametrize("positions", [[], ["a"], [-1], [0.5]])
def test_facts_without_logits_are_refused(folder, positions):
    with_facts(folder, probe={"logits": [1.0], "positions": positions})
    assert "expected positions and as many logits" in problem_of(folder)
