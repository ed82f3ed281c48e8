import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_files import own_cache
from transformers import AutoTokenizer, BertForMaskedLM

from homodistil_hf.cli import main
from homodistil_hf.experiments.demo.run import DemoSettings, claim_folder, demo_settings
from homodistil_hf.experiments.demo.teacher import train_tokenizer
from homodistil_hf.experiments.demo.text import collect_text, english_paragraphs, fingerprint, is_english, source_files
from homodistil_hf.export.verify import verify_export
from homodistil_hf.files.caches import cache_folder, cached, clear_caches
from homodistil_hf.models.cost import model_facts

ROW_KEYS = ["name", "num_parameters", "encoder_macs", "size_bytes", "latency_ms", "kl", "mlm_accuracy"]
SENTENCE = "Return the number of bytes that are left in the buffer."


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    own_cache(monkeypatch, tmp_path / "cache")


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What a shrunken demo left and printed."""
    folder = tmp_path_factory.mktemp("demo of a test") / "demo"
    with pytest.MonkeyPatch.context() as monkeypatch:
        own_cache(monkeypatch, folder.parent / "cache")
        assert main(["demo", "--quick", "--output_dir", str(folder)]) == 0
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    tensors, others = weights(one), weights(other)
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


# text


def test_listings_tables_and_other_languages_are_no_english():
    assert is_english(SENTENCE)
    assert not is_english("x : array_like, shape (n, m), dtype=float64, default=None, y : int, z : int")
    assert not is_english("The buffer.")
    assert not is_english("Gib die Zahl der Bytes zurück, die noch im Puffer sind, oder null.")


def test_docstrings_are_read_and_nothing_runs(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        f'"""{SENTENCE}\n\n>>> is not the text of a doctest, and it is in the module that this is about.\n"""\n'
        "raise SystemExit('this file was run')\n"
        "class A:\n"
        '    """A class that has\n    a docstring of its own and that is to be read."""\n'
        "    def f(self):\n"
        '        """A method that is in the class and has a docstring of its own."""\n'
        'text = "A string that is not a docstring and that is not to be read by the demo."\n'
    )
    assert english_paragraphs(path) == [
        SENTENCE,
        "A class that has a docstring of its own and that is to be read.",
        "A method that is in the class and has a docstring of its own.",
    ]


@pytest.mark.parametrize("content", [b"def f(:", b"\xff\xfe\x00", b"x = 1\x00"])
def test_files_that_can_not_be_parsed_have_no_text(content, tmp_path):
    path = tmp_path / "broken.py"
    path.write_bytes(content)
    assert english_paragraphs(path) == []


def test_paragraphs_are_taken_once_and_in_order(tmp_path):
    files = []
    for name, extra in (("a", "one"), ("b", "two"), ("c", "three")):
        path = tmp_path / f"{name}.py"
        path.write_text(f'"""{SENTENCE}\n\nThis is the text of module {extra} and it is not in the others."""')
        files.append((f"stdlib/{name}.py", path))
    documents = collect_text(files, 10_000)
    assert documents[0] == f"{SENTENCE}\nThis is the text of module one and it is not in the others."
    assert documents[1:] == [
        f"This is the text of module {extra} and it is not in the others." for extra in ("two", "three")
    ]
    assert collect_text(files, 10) == documents[:1]


def test_source_files_mix_packages_in_a_fixed_order():
    files = source_files()
    assert files == source_files()
    assert {name.split("/")[0] for name, _ in files[:200]} == {"stdlib", "lib"}
    assert not [name for name, _ in files if "/tests/" in name]


def test_the_fingerprint_follows_the_files(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("one")
    files = [("stdlib/a.py", path)]
    first = fingerprint(files, 100)
    assert first == fingerprint(files, 100) != fingerprint(files, 200)
    path.write_text("three")
    assert fingerprint(files, 100) != first


@pytest.mark.slow
def test_the_vocabulary_is_the_same_in_every_process(tmp_path):
    code = (
        "from homodistil_hf.experiments.demo.teacher import train_tokenizer\n"
        "words = [f'{a}{b}{c}ing the {b}{a}' for a in 'abcdefg' for b in 'hijklm' for c in 'nopqrst']\n"
        "print(sorted(train_tokenizer(words, 120, 16).get_vocab().items()))"
    )
    environments = [{**os.environ, "TQDM_DISABLE": "1", "RAYON_NUM_THREADS": number} for number in ("1", "2")]
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        ).stdout
        for environment in environments
    ]
    assert len(set(printed)) == 1
    assert "('##ing'" in printed[0]


def test_the_tokenizer_is_one_of_bert():
    tokenizer = train_tokenizer([SENTENCE] * 3, 80, 16)
    assert tokenizer.model_max_length == 16
    assert [tokenizer.pad_token_id, tokenizer.mask_token_id] == [0, 4]
    assert tokenizer.decode(tokenizer(SENTENCE)["input_ids"], skip_special_tokens=True).startswith("return the number")


# caches


def test_a_cached_folder_is_built_once():
    built = []

    def build(folder):
        built.append(folder)
        (folder / "file").write_text("content")

    first, second = cached("demo", "key", build), cached("demo", "key", build)
    assert first == second == cache_folder() / "demo" / "key"
    assert (first / "file").read_text() == "content"
    assert len(built) == 1
    assert clear_caches() > 0
    assert not first.exists()


def test_an_interrupted_build_is_never_used():
    def interrupted(folder):
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("demo", "key", interrupted)
    assert list((cache_folder() / "demo").iterdir()) == []
    folder = cached("demo", "key", lambda folder: (folder / "whole").write_text(""))
    assert (folder / "whole").is_file()


def test_a_damaged_cache_is_built_anew():
    folder = cached("demo", "key", lambda folder: (folder / "file").write_text("right"))
    (folder / "file").write_text("wrong")
    assert (
        cached("demo", "key", lambda folder: (folder / "file").write_text("right")) / "file"
    ).read_text() == "right"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOMODISTIL_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own/homodistil_hf"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/homodistil_hf"),
        ({"HOME": "/home/somebody"}, "/home/somebody/.cache/homodistil_hf"),
    ],
)
def test_where_caches_are(variables, expected, monkeypatch):
    for name in ("HOMODISTIL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


# the demo


def test_the_demo_leaves_what_it_says(demo):
    names = {path.name for path in demo.iterdir()}
    assert names == {"teacher", "student", "one_shot", "results.json", "demo.json", "discrepancy.png"}
    assert (demo / "discrepancy.png").read_bytes().startswith(b"\x89PNG")


def test_rows_state_what_the_models_are(demo):
    rows = json.loads((demo / "results.json").read_text())
    assert [row["name"] for row in rows] == ["teacher", "student", "one_shot"]
    for row in rows:
        assert list(row) == ROW_KEYS
        facts = model_facts(BertForMaskedLM.from_pretrained(demo / row["name"]))
        assert {key: row[key] for key in ROW_KEYS[1:4]} == {key: facts[key] for key in ROW_KEYS[1:4]}
        assert row["latency_ms"] > 0
        assert 0 <= row["mlm_accuracy"] <= 1
    teacher, student, one_shot = rows
    assert teacher["kl"] == 0.0
    assert student["kl"] > 0.0
    assert student["encoder_macs"] == one_shot["encoder_macs"] == pytest.approx(teacher["encoder_macs"] / 4, rel=0.1)


def test_curves_start_where_they_must(demo):
    curves = json.loads((demo / "demo.json").read_text())["curves"]
    assert [step for step, _ in curves["student"]] == list(range(0, 21, 2)) == [step for step, _ in curves["one_shot"]]
    assert curves["student"][0][1] == pytest.approx(0.0, abs=1e-5)
    assert curves["one_shot"][0][1] > 1e-4


def test_the_students_can_be_verified(demo):
    for name in ("student", "one_shot"):
        assert verify_export(demo / name).problems == ()
    assert len(AutoTokenizer.from_pretrained(demo / "teacher")) == 500


@pytest.mark.slow
def test_the_same_seed_gives_the_same_student(demo, tmp_path, capsys):
    again, other = tmp_path / "again", tmp_path / "other"
    assert main(["demo", "--quick", "--output_dir", str(again)]) == 0  # its own cache: everything is made anew
    assert [name for name in ("teacher", "student", "one_shot") if not same_weights(demo / name, again / name)] == []
    printed = capsys.readouterr().out
    assert "MLM accuracy" in printed
    assert "The default [MASK] is None." in printed
    assert main(["demo", "--quick", "--output_dir", str(other), "--seed", "1"]) == 0
    assert not same_weights(demo / "student", other / "student")


def test_the_demo_overwrites_its_own_folder_only(demo, tmp_path, capsys):
    claim_folder(tmp_path / "new")
    claim_folder(tmp_path / "new")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("")
    assert main(["demo", "--output_dir", str(tmp_path / "foreign")]) == 2
    assert "is not empty and was not written by homodistil demo; name another folder" in capsys.readouterr().err
    (tmp_path / "foreign" / "demo.json").write_text('{"made_by": "somebody"}')
    with pytest.raises(ValueError, match="was not written by homodistil demo"):
        claim_folder(tmp_path / "foreign")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        claim_folder(tmp_path / "foreign" / "thesis.tex")


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"max_steps": 5}, "max_steps=5 is too small; nearest valid: 10"),
        ({"teacher_steps": 0}, "teacher_steps=0 is too small; nearest valid: 1"),
        ({"seed": -1}, "seed=-1 is too small; nearest valid: 0"),
    ],
)
def test_numbers_that_can_not_work(numbers, message):
    with pytest.raises(ValueError, match=message):
        demo_settings(**{"output_dir": "out", "seed": 0} | numbers)


def test_flags_reach_the_settings():
    settings = demo_settings(output_dir="out", seed=3, max_steps=50, teacher_steps=7)
    assert (settings.output_dir, settings.seed, settings.max_steps) == ("out", 3, 50)
    assert (settings.teacher.seed, settings.teacher.num_steps) == (3, 7)
    assert settings.teacher.vocab_size == DemoSettings().teacher.vocab_size
