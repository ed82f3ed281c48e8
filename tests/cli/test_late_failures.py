"""Places and words of commands that would fail late are refused at once."""

import json

import pytest
from commands import error_of
from rows import each

from homodistil_hf.cli import main


@each("place", ["file/new", "/proc/new"])
@each(
    ("words", "argument"),
    [
        (("trim", "TEACHER", "--text", "TEXT", "--output"), "output"),
        (("export", "RUN", "--output"), "output"),
        (("latency", "TEACHER", "--output"), "output"),
        (("evaluate", "TEACHER", "--task", "discrepancy", "--eval_data", "TEXT", "--output_dir"), "output_dir"),
        (("evaluate", "TEACHER", "--task", "discrepancy", "--eval_data", "TEXT", "--output"), "output"),
        (("evaluate", "--compare", "TEACHER", "--output"), "output"),
        (("prune", "--model", "TEACHER", "--unlabeled_data", "TEXT", "--output_dir"), "output_dir"),
        (
            ("finetune", "--model", "TEACHER", "--train_data", "ROWS", "--eval_data", "ROWS", "--output_dir"),
            "output_dir",
        ),
        (
            (
                "distill",
                *("--method", "bit", "--model", "TEACHER", "--train_data", "R", "--eval_data", "R"),
                "--output_dir",
            ),
            "output_dir",
        ),
        (("demo", "--output_dir"), "output_dir"),
    ],
)
def test_an_output_that_can_not_be_written_is_told_before_the_work(folder, tmp_path, capsys, words, argument, place):
    (tmp_path / "file").touch()
    given = {"TEACHER": str(folder / "teacher"), "TEXT": str(folder / "train.txt"), "RUN": str(folder / "run")}
    target = str(tmp_path / place) + (".md" if words[0] == "evaluate" and argument == "output" else "")
    error = error_of(capsys, *(given.get(word, word) for word in words), target)
    assert f"error: {argument}='{target}' can't be written (" in error


@pytest.mark.slow
def test_results_are_written_into_new_folders(folder, tmp_path, capsys):
    file = tmp_path / "a" / "b" / "out.json"
    words = ("--batch_sizes", "1", "--lengths", "8", "--rounds", "1", "--backends", "torch", "--output", str(file))
    assert main(["latency", str(folder / "teacher"), *words]) == 0
    assert json.loads(file.read_text())["settings"]["num_rounds"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", ["student/sub", "checkpoint-12/a/b"])
def test_no_export_is_written_into_another(finished, capsys, place):
    error = error_of(capsys, "export", finished, "--output", finished / place)
    assert f"lies in '{finished / place.partition('/')[0]}'" in error
    assert main(["verify", str(finished)]) == 0


def test_a_path_is_never_told_as_a_repository(folder, tmp_path, capsys):
    gone = tmp_path / "gone"
    for words in (
        ("plan", "--student", "macs=0.5", "--teacher"),
        ("trim", "--text", folder / "train.txt", "--output", tmp_path / "t"),
        ("latency",),
        ("distill", folder / "config.json", "--output_dir", tmp_path / "d", "--tokenizer"),
        ("distill", "--train_data", "x", "--output_dir", tmp_path / "d", "--method", "embedding", "--teacher"),
    ):
        assert f"='{gone}' does not exist; expected a folder" in error_of(capsys, *words, gone)


def test_words_that_are_no_keys_are_told(folder, capsys):
    config = folder / "config.json"
    for word in ("--student macs=0.5", "--student ", "--student\u00a0"):
        assert "is no key by itself; write --student VALUE" in error_of(capsys, "distill", config, word)
    assert "leave it out: every value stands behind its --key" in error_of(
        capsys, *("distill", config, "--", "--student", "macs=0.5")
    )
