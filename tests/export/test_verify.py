"""verify finds nothing wrong with a good export, and names whatever was changed afterwards."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_teacher, random_student
from transformers import BertForMaskedLM

import homodistil_hf.methods.formats
from homodistil_hf.export.export_folder import FORMATS, export_student
from homodistil_hf.export.facts import file_facts
from homodistil_hf.export.verify import run_fresh
from homodistil_hf.files.checkpoints import file_digest
from homodistil_hf.methods.formats import verify_export
from homodistil_hf.models.architectures import modeling_homobert as modeling
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM, HomoBertForQuestionAnswering

MODELING_FILE = "modeling_homobert.py"


@pytest.fixture(autouse=True)
def _exports_are_verified_in_a_fork():
    """Not here: a process that has imported nothing."""


@pytest.fixture(scope="module")
def good_exports(tmp_path_factory, tokenizer):
    """One export a format, written once; tests work on copies."""
    root = tmp_path_factory.mktemp("good")
    heads = {"standard": HomoBertForQuestionAnswering, "compact": HomoBertForMaskedLM}
    teacher = make_teacher(BertForMaskedLM, vocab_size=96)
    run = {"training": {"num_steps": 3}, "evaluation": {"kl": 0.5}}
    return {
        format: export_student(
            random_student(head, vocab_size=96), root / format, format, tokenizer=tokenizer, teacher=teacher, facts=run
        )
        for format, head in heads.items()
    }


@pytest.fixture
def export(good_exports, tmp_path):
    """A fresh copy of the compact export; `standard` by name."""

    def copy(format="compact"):
        return shutil.copytree(good_exports[format], tmp_path / format)

    return copy


@pytest.fixture
def no_process(monkeypatch):
    """Nothing is loaded in a fresh process, and no remote code runs."""

    def refuse(*args):
        raise AssertionError("a fresh process was started")

    monkeypatch.setattr(homodistil_hf.export.verify, "run_fresh", refuse)


def edit_json(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def with_new_digests(folder):
    """Facts that agree with the files as they are now, as a careful forger would leave them."""
    edit_json(folder / "facts.json", lambda facts: facts.update(files=file_facts(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_good_export_has_no_problems_and_stays_as_it_was(export, format, monkeypatch, tmp_path, forked_python):
    if format == "standard":  # one start that takes seconds is enough
        monkeypatch.setattr(homodistil_hf.export.verify, "subprocess", forked_python)
    folder, modules = export(format), tmp_path / "modules"
    # What the Hub and its client add is no problem.
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "CACHEDIR.TAG").write_text("")
    modules.mkdir()
    monkeypatch.setenv("HF_MODULES_CACHE", str(modules))
    before = sorted(folder.rglob("*"))
    report = verify_export(folder)
    assert report.problems == ()
    assert report.ok
    assert 0 <= report.max_relative_difference <= 1e-5
    assert report.code_sha256 == (file_digest(Path(modeling.__file__)) if format == "compact" else None)
    assert list(modules.iterdir()) == []
    assert sorted(folder.rglob("*")) == before


# Files


@pytest.mark.usefixtures("no_process")
def test_damaged_weights_are_found(export):
    path = export() / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (problem,) = verify_export(path.parent).problems
    assert problem.startswith("model.safetensors sha256: facts.json says '")
    assert not verify_export(path.parent).ok
    path.write_bytes(content[:-8])
    size = f"facts.json says {len(content)}, found {len(content) - 8}"
    assert f"model.safetensors size_bytes: {size}" in verify_export(path.parent).problems


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((name, "expected in every export") for name in ("model.safetensors", "config.json", "README.md")),
        *((name, "listed in facts.json") for name in ("tokenizer.json", MODELING_FILE)),
    ],
)
def test_a_missing_file_is_named(export, name, words):
    folder = export()
    (folder / name).unlink()
    assert verify_export(folder).problems == (f"{name}: {words}, found nothing",)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("pytorch_model.bin", "pickle, expected safetensors only"),
        ("deep/optimizer.pt", "pickle, expected safetensors only"),
        ("notes.txt", "file"),
        ("modeling_other.py", "file"),
    ],
)
def test_a_file_too_many_is_named(export, name, kind):
    folder = export("standard")
    (folder / name).parent.mkdir(exist_ok=True)
    torch.save({}, folder / name)
    assert verify_export(folder).problems == (f"{name}: found an unexpected {kind}; facts.json does not list it",)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no facts.json; expected an export"),
        ("{", "is no JSON"),
        ("[]", "is not of version 1"),
        ('{"facts_version": 1}', "has student=None, which no export has"),
    ],
)
def test_facts_that_are_none_are_named(export, text, message):
    path = export() / "facts.json"
    path.unlink() if text is None else path.write_text(text)
    assert message in verify_export(path.parent).problems[0]
    assert "does not exist; name an export" in verify_export(path.parent / "none").problems[0]


# Remote code


@pytest.mark.usefixtures("no_process")
def test_an_edited_modelling_file_is_not_run(export):
    folder = export()
    with (folder / MODELING_FILE).open("a") as file:
        file.write("\nraise SystemExit\n")
    assert any(problem.startswith(f"{MODELING_FILE} sha256: ") for problem in verify_export(folder).problems)
    with_new_digests(folder)
    (problem,) = verify_export(folder).problems
    assert problem.startswith(f"{MODELING_FILE}: expected this package's own file (sha256 ")
    assert problem.endswith("; it was not run")
    assert verify_export(folder).code_sha256 == file_digest(folder / MODELING_FILE)


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("format", "name", "auto_map", "expected"),
    [
        ("compact", "config.json", {"AutoModel": "evil/repo--modeling.Model"}, "{"),
        ("standard", "config.json", {"AutoModel": "modeling_x.X"}, "None, found {'AutoModel': 'modeling_x.X'}"),
        ("standard", "tokenizer_config.json", {"AutoTokenizer": ["x.X", None]}, "None, found {'AutoTokenizer'"),
    ],
)
def test_code_that_a_configuration_names_is_not_run(export, format, name, auto_map, expected):
    folder = export(format)
    edit_json(folder / name, lambda config: config.update(auto_map=config.get("auto_map", {}) | auto_map))
    with_new_digests(folder)
    (problem,) = verify_export(folder).problems
    assert problem.startswith(f"{name} auto_map: expected {expected}")
    assert str(next(iter(auto_map))) in problem


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["configuration_evil.py", "deep/modeling_evil.py", "evil.so"])
def test_listed_code_that_no_export_writes_is_not_run(export, format, name):
    folder = export(format)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("raise SystemExit")
    with_new_digests(folder)
    (problem,) = verify_export(folder).problems
    assert problem.startswith(f"{name}: expected no code beside ")


@pytest.mark.usefixtures("no_process")
def test_a_listed_pickle_is_not_opened(export):
    folder = export("standard")
    torch.save({}, folder / "pytorch_model.bin")
    with_new_digests(folder)
    assert verify_export(folder).problems == ("pytorch_model.bin: found a pickle, expected safetensors only",)


# Numbers


@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize("format", FORMATS)
def test_a_wrong_number_is_found(export, format):
    folder = export(format)
    costs = json.loads((folder / "facts.json").read_text())["student"]
    names = ("num_parameters", "num_encoder_parameters", "encoder_macs", "size_bytes")
    edit_json(folder / "facts.json", lambda facts: facts["student"].update({n: costs[n] - 8 for n in names}))
    problems = [f"facts.json student {n}: facts.json says {costs[n] - 8}, found {costs[n]}" for n in names]
    assert set(problems) <= set(verify_export(folder).problems)


@pytest.mark.slow
@pytest.mark.usefixtures("no_process")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: facts["cost_fractions"].update(encoder_macs=0.1), "facts.json cost_fractions encoder_macs: "),
        (lambda facts: facts["teacher"].update(encoder_macs=10**9), "facts.json cost_fractions encoder_macs: "),
        (lambda facts: facts["teacher"].update(size_bytes=None), "has teacher={"),
        (lambda facts: facts["forms"]["padded"].update(num_parameters=5), "facts.json forms padded num_parameters: "),
        (lambda facts: facts["student"]["plan"].update(hidden_size=5), "facts.json student plan hidden_size: "),
        (lambda facts: facts["student"].update(architecture="BertModel"), "facts.json student architecture: "),
        (lambda facts: facts["probe"]["input_ids"][0].reverse(), "facts.json probe input_ids: "),
        (lambda facts: facts["probe"].update(logits="none"), "has probe={"),
        (lambda facts: facts["probe"]["logits"].pop(), "expected the logits that the student had in memory"),
        (lambda facts: facts.update(teacher=[]), "has teacher=[], which no export has"),
        (lambda facts: facts.update(format="tight"), f"{MODELING_FILE}: expected no code beside the weights"),
    ],
)
def test_wrong_facts_are_found(export, change, message):
    folder = export()
    edit_json(folder / "facts.json", change)
    assert any(message in problem for problem in verify_export(folder).problems)


@pytest.mark.usefixtures("no_process")
def test_padding_that_does_not_fit_the_facts_is_found(export):
    folder = export("standard")
    edit_json(
        folder / "facts.json",
        lambda facts: facts["forms"]["compact"]["plan"]["layers"][0].update(intermediate_size=12),
    )
    (problem,) = verify_export(folder).problems
    assert problem.startswith("the export can't be loaded: plan={")


@pytest.mark.usefixtures("no_process")
def test_other_and_missing_weights_are_found(export):
    path = export() / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}  # of the file no more
    tensors["bert.encoder.layer.1.output.dense.weight"][3, 2] += 1e-2
    in_memory = "model.safetensors: expected the logits that the student had in memory within 1e-05"
    for message in (in_memory, "has no weights for bert.encoder.layer.1.output.dense.bias"):
        save_file(tensors, path, metadata={"format": "pt"})
        with_new_digests(path.parent)
        (problem,) = verify_export(path.parent).problems
        assert message in problem
        tensors.pop("bert.encoder.layer.1.output.dense.bias", None)


# The fresh process


@pytest.mark.slow
def test_a_process_that_fails_or_hangs_is_told_of():
    with pytest.raises(ValueError, match=r"ended with status 1: ModuleNotFoundError: No module named 'not_here'"):
        run_fresh("import not_here", [])
    with pytest.raises(ValueError, match=r"^the fresh process took more than 0\.5 s$"):
        run_fresh("import time; time.sleep(60)", [], timeout_s=0.5)


@pytest.mark.slow
def test_other_results_of_the_process_are_found(export, forked_python, monkeypatch):
    monkeypatch.setattr(homodistil_hf.export.verify, "subprocess", forked_python)
    shifted = homodistil_hf.export.verify._FRESH_PROCESS.replace(
        "tensors[0]\n", "tensors[0] + (1 if name == 'AutoModel' else float('nan'))\n"
    )
    assert shifted.count("nan") == 1
    monkeypatch.setattr(homodistil_hf.export.verify, "_FRESH_PROCESS", shifted)
    report = verify_export(export())
    names = [problem.split(": expected a relative difference")[0] for problem in report.problems]
    assert names == [
        "AutoModelForMaskedLM, logits of the compact form",
        "AutoModel, hidden states of the compact form",
    ]
