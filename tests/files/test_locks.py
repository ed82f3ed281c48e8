"""Folders are claimed by one process at a time, whatever works in them."""

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest
from tiny_files import write_teacher

from homodistil_hf.cli import main
from homodistil_hf.files.checkpoints import MANIFEST_NAME, is_model_done, model_written
from homodistil_hf.files.folders import aside_name, write_text
from homodistil_hf.files.locks import claimed, lock_beside, lock_in

_HOLD = (
    "import sys; from pathlib import Path; from homodistil_hf.files.locks import claimed\n"
    "with claimed(Path(sys.argv[1]), 'folder'): print('held', flush=True); sys.stdin.read()"
)


_WRITE = """
import sys; from pathlib import Path; from homodistil_hf.files.checkpoints import model_written
with model_written(Path(sys.argv[1]), remedy="Start again") as aside:
    (aside / "a").write_text("theirs"); print("held", flush=True); sys.stdin.read(); (aside / "b").write_text("theirs")
"""


@contextmanager
def other_process(script, path):
    """A process that has come to the middle of a script while inside; it goes on once its input is closed."""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


@contextmanager
def in_other_hands(lock_file):
    """Another process holds the lock while inside; yields what every refusal says."""
    with other_process(_HOLD, lock_file) as process:
        yield _told_of(process)
        process.kill()


def _told_of(process):
    return f"is in use by process {process.pid} on {socket.gethostname()}; wait until it is done"


def test_a_claim_is_reentrant_and_leaves_nothing(tmp_path):
    lock = lock_in(tmp_path)
    with claimed(lock, "folder"):
        with claimed(lock, "folder"):
            assert lock.with_suffix(".pid").read_text() == f"{os.getpid()} {socket.gethostname()}\n"
        assert sorted(os.listdir(tmp_path)) == [".lock", ".lock.pid"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("target", ("key", "missing"))
def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path, target):
    (tmp_path / "key").write_text("mine")
    lock, report = lock_beside(tmp_path / "run"), tmp_path / "report.html"
    for name in (lock.with_suffix(".pid"), aside_name(report)):
        os.symlink(tmp_path / target, name)
    with claimed(lock, "folder"):
        write_text(report, "won")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"key": "mine", "report.html": "won"}


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    lock = lock_in(tmp_path)
    with (
        in_other_hands(lock) as message,
        pytest.raises(ValueError, match=f"folder {message}"),
        claimed(lock, "folder"),
    ):
        raise AssertionError("two hold it")
    assert sorted(os.listdir(tmp_path)) == [".lock", ".lock.pid"]  # of the killed process
    with claimed(lock, "folder"):
        pass
    assert os.listdir(tmp_path) == []


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), claimed(lock_in(tmp_path), "folder"):
        pass
    assert "its file system has no locks (No locks available); start no second process" in caplog.text


# What claims a folder


@pytest.mark.slow
def test_trainers_refuse_a_folder_in_which_another_process_trains(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=2)
    with in_other_hands(lock_in(tmp_path / "run")) as message:
        for resume in (None, "last"):
            with pytest.raises(ValueError, match=f"output_dir=.*run' {message}"):
                trainer.train(resume)
    trainer.train()
    assert not [name for name in os.listdir(tmp_path / "run") if "lock" in name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "evaluate TEACHER --task rte --data_dir DATA",
        "evaluate TEACHER --task squad --data_dir DATA",
        "evaluate TEACHER --task discrepancy --eval_data DATA",
        "evaluate VECTORS --task embedding --eval_data DATA",
        "finetune --model TEACHER --train_data DATA/squad/train.jsonl --eval_data DATA/squad/train.jsonl",
        "distill --method bit --model TEACHER --train_data DATA/squad/train.jsonl --eval_data DATA/squad/train.jsonl",
        "distill --method self_distillation --teacher TEACHER --train_data DATA/text.txt",
        "demo",
    ],
)
def test_commands_refuse_a_folder_in_other_hands(words, tmp_path, capsys):
    places = {"DATA": tmp_path / "data", "TEACHER": write_teacher(tmp_path / "teacher")}
    for file in ("rte/train.parquet", "rte/validation.parquet", "squad/train.jsonl", "squad/validation.jsonl"):
        (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / file).touch()
    if "VECTORS" in words:
        from tiny_embeddings import make_sentence_folder

        places["VECTORS"] = make_sentence_folder(tmp_path / "vectors")
    folder = tmp_path / "run"
    with in_other_hands(lock_in(folder)) as told:
        assert main([*(str(places.get(word, word)) for word in words.split()), "--output_dir", str(folder)]) == 2
    assert f"run' {told}" in capsys.readouterr().err
    assert sorted(os.listdir(folder)) == [".lock", ".lock.pid"]  # of the killed process


@pytest.mark.parametrize("is_killed", [False, True])
def test_two_processes_never_publish_a_mixture(tmp_path, is_killed):
    folder = tmp_path / "model"
    with other_process(_WRITE, folder) as process:
        with (
            pytest.raises(ValueError, match=f"folder='.*model' {_told_of(process)}"),
            model_written(folder, remedy="Start again"),
        ):
            raise AssertionError("two write it")
        if is_killed:
            process.kill()
    assert is_model_done(folder) is not is_killed
    if is_killed:
        with model_written(folder, remedy="Start again") as aside:
            (aside / "a").write_text("ours")
    assert {path.name: path.read_text() for path in folder.iterdir() if path.name != MANIFEST_NAME} == (
        {"a": "ours"} if is_killed else {"a": "theirs", "b": "theirs"}
    )
    assert is_model_done(folder)
    assert os.listdir(tmp_path) == ["model"]
