"""Folders are claimed by one process at a time, whatever works in them."""

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager

import pytest
from filelock import SoftFileLock
from tiny_files import write_teacher
from tiny_models import make_teacher
from transformers import BertForMaskedLM, BertForSequenceClassification

from homodistil_hf.cli import main
from homodistil_hf.export.export_folder import export_student
from homodistil_hf.files.checkpoints import MANIFEST_NAME, is_model_done, model_written
from homodistil_hf.files.locks import Holder, claimed, held, holder, lock_beside, lock_in

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
            assert holder(lock) == Holder(os.getpid(), socket.gethostname())
        assert holder(lock) is not None
    assert holder(lock) is None
    assert os.listdir(tmp_path) == []


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


def without_locks(monkeypatch, number):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    without_locks(monkeypatch, errno.ENOLCK)
    with caplog.at_level(logging.WARNING), held(lock_in(tmp_path)) as is_ours:
        assert is_ours
    assert "its file system has no locks (No locks available); start no second process" in caplog.text


def test_without_flock_a_file_says_who_holds_the_folder(tmp_path, monkeypatch):
    without_locks(monkeypatch, errno.ENOSYS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with held(lock_in(tmp_path)) as is_ours:
            assert is_ours
            assert SoftFileLock(lock_in(tmp_path)).pid == os.getpid()
        assert os.listdir(tmp_path) == []
        with subprocess.Popen([sys.executable, "-c", ""]) as ended:
            ended.wait()
        (tmp_path / ".lock").write_text(f"{ended.pid}\n{socket.gethostname()}\n")
        with held(lock_in(tmp_path)) as is_ours:
            assert is_ours
    assert "flock not supported" in str(caught[0].message)


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


def _chain(folder, teacher, blocks):
    from homodistil_hf.methods.binarization.stages import BinarizationSettings, binarize_chain

    rows = teacher.parent / "rows.csv"
    rows.write_text("text,label\na,0\nb,1\n", encoding="utf-8")
    data = {"train_data": str(rows), "eval_data": str(rows)}
    binarize_chain(BinarizationSettings(model=str(teacher), output_dir=folder, **data), print)


def _rounds(folder, teacher, blocks):
    from homodistil_hf import SelfDistillationArguments, self_distill

    args = SelfDistillationArguments(output_dir=folder, max_steps=1, report_to="none", use_cpu=True)
    self_distill(str(teacher), args, train_dataset=blocks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [_chain, _rounds],
)
def test_chains_and_rounds_refuse_a_folder_in_other_hands(run, tmp_path, blocks):
    teacher, folder = write_teacher(tmp_path / "teacher"), str(tmp_path / "run")
    with in_other_hands(lock_in(folder)) as told, pytest.raises(ValueError, match=f"output_dir='.*run' {told}"):
        run(folder, teacher, blocks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "evaluate TEACHER --task rte --data_dir DATA",
        "evaluate TEACHER --task squad --data_dir DATA",
        "evaluate TEACHER --task discrepancy --eval_data DATA",
        "evaluate VECTORS --task embedding --eval_data DATA",
        "finetune --model TEACHER --train_data DATA/rte/train.jsonl --eval_data DATA/rte/train.jsonl",
        "demo",
    ],
)
def test_commands_refuse_a_folder_in_other_hands(words, tmp_path, capsys):
    places = {"DATA": tmp_path / "data", "TEACHER": write_teacher(tmp_path / "teacher")}
    for file in ("train", "validation"):
        for task in ("rte", "squad"):
            (tmp_path / "data" / task).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / task / f"{file}.jsonl").write_text("", encoding="utf-8")
    if "VECTORS" in words:
        from tiny_embeddings import make_sentence_folder

        places["VECTORS"] = make_sentence_folder(tmp_path / "vectors")
    folder = tmp_path / "run"
    with in_other_hands(lock_in(folder)) as told:
        assert main([*(str(places.get(word, word)) for word in words.split()), "--output_dir", str(folder)]) == 2
    assert f"run' {told}" in capsys.readouterr().err
    assert sorted(os.listdir(folder)) == [".lock", ".lock.pid"]  # of the killed process


def _stock(target):
    return export_student(make_teacher(BertForMaskedLM), target, overwrite=True)


def _bits(target):
    from homodistil_hf import export_packed, to_binary

    return export_packed(to_binary(make_teacher(BertForSequenceClassification), activation_bits=1), target)


def _vectors(target):
    from tiny_embeddings import make_sentence_folder

    from homodistil_hf.embedding.folder import export_embedding_model
    from homodistil_hf.embedding.reading import load_embedding_model

    source = target.parents[1] / "model"
    model = load_embedding_model(source if source.is_dir() else make_sentence_folder(source))
    return export_embedding_model(model, target)


@pytest.mark.slow
@pytest.mark.parametrize(
    "export",
    [
        _stock,
        _bits,
        _vectors,
    ],
)
def test_exports_refuse_a_folder_in_other_hands(export, tmp_path):
    target = tmp_path / "to" / "student"
    with in_other_hands(lock_beside(target)) as message, pytest.raises(ValueError, match=f"folder='.*' {message}"):
        export(target)
    assert not target.exists()
    export(target)
    assert os.listdir(tmp_path / "to") == ["student"]


@pytest.mark.parametrize("is_killed", [False, True])
def test_two_processes_never_publish_a_mixture(tmp_path, is_killed):
    folder = tmp_path / "model"
    with other_process(_WRITE, folder) as process:
        with pytest.raises(ValueError, match=f"folder='.*model' {_told_of(process)}"), _model(folder):
            raise AssertionError("two write it")
        if is_killed:
            process.kill()
    assert is_model_done(folder) is not is_killed
    if is_killed:
        with _model(folder) as aside:
            (aside / "a").write_text("ours")
    assert {path.name: path.read_text() for path in folder.iterdir() if path.name != MANIFEST_NAME} == (
        {"a": "ours"} if is_killed else {"a": "theirs", "b": "theirs"}
    )
    assert is_model_done(folder)
    assert os.listdir(tmp_path) == ["model"]


def _model(folder):
    return model_written(folder, remedy="Start again")


def test_an_export_that_another_process_wrote_meanwhile_stays(tmp_path, monkeypatch):
    model = make_teacher(BertForMaskedLM)
    other = export_student(model, tmp_path / "other")
    # It appears after the first look at the folder and before the lock is taken.
    monkeypatch.setattr(
        "homodistil_hf.export.export_folder.model_facts",
        lambda exported: other.exists() and other.rename(tmp_path / "student") and {},
    )
    with pytest.raises(ValueError, match="holds an export already"):
        export_student(model, tmp_path / "student")


_RANK = """
import sys
from accelerate import PartialState
state = PartialState(cpu=True)
from homodistil_hf.training.run_folder import folder_claimed
try:
    with folder_claimed(sys.argv[1], is_main=state.is_main_process):
        print("claimed")
except ValueError as error:
    print(f"rank {state.process_index}: {error}")
state.destroy_process_group()
"""


@pytest.mark.distributed
def test_a_second_run_is_refused_on_all_its_ranks(as_ranks, tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(_RANK, encoding="utf-8")
    with in_other_hands(lock_in(tmp_path / "run")) as message:
        done = as_ranks(script, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "claimed" not in done.stdout
    assert f"rank 0: output_dir='{tmp_path / 'run'}' {message}" in done.stdout
    assert "rank 1: rank 0 stopped with ValueError: output_dir=" in done.stdout
    done = as_ranks(script, tmp_path / "run")
    assert done.stdout.count("claimed") == 2
