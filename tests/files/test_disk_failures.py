"""A disk that fails under a run or an export: the error names the file, and what was good stays good."""

import errno
import gc
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from run_traces import SaveAt, assert_same_run
from small_disk import limited_file_size, read_only, room_for, small_disk
from tiny_models import GRADUAL

from homodistil_hf import HomoDistilTrainer, export_student
from homodistil_hf.files import checkpoints as checkpoint
from homodistil_hf.files.checkpoints import last_checkpoint, manifest_problem
from homodistil_hf.files.folders import remove_folder

SETTINGS = GRADUAL | {"max_steps": 8, "pruning_interval_steps": 1, "width_multiple": 1}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def save(trainer: HomoDistilTrainer) -> None:
    trainer._save_checkpoint(trainer.model, None)


def failure(call: Callable[[], object]) -> OSError:
    """The error that a call ends in, without its traceback, whose frames keep half-written files open."""
    with pytest.raises(OSError, match="No space left on device") as caught:
        call()
    error = OSError(caught.value.errno, caught.value.strerror, caught.value.filename)
    del caught
    gc.collect()
    return error


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_file_of_a_checkpoint(make_trainer, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        trainer = make_trainer(output_dir=str(disk / "run"), callbacks=[SaveAt(4)], **SETTINGS)
        trainer.train()
        good = disk / "run" / "checkpoint-4"
        save(trainer)
        size = size_bytes(disk / "run" / "checkpoint-8")
        remove_folder(disk / "run" / "checkpoint-8")
        before, files = contents(good), set()
        for share in range(12):
            with room_for(disk, size * share // 12):
                error = failure(partial(save, trainer))
            assert error.errno == errno.ENOSPC
            assert f"checkpoint-8 was not saved, the last good checkpoint is {good}. Make room" in str(error)
            files.add(Path(error.filename).name)
            assert names_in(disk / "run") == ["checkpoint-4", "trainer_state.json"]
        assert contents(good) == before
        assert files <= {*before, ".staging", "checkpoint-8"}
        resumed = make_trainer(output_dir=str(disk / "run"), **SETTINGS)
        resumed.train("last")
        assert_same_run(resumed, trainer)
        save(resumed)
        assert last_checkpoint(disk / "run").name == "checkpoint-8"


@pytest.mark.slow
def test_a_quota_in_the_middle_of_a_run(make_trainer, tmp_path):
    settings = SETTINGS | {"save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(**settings)
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **settings)
    whole.train()
    limit = (tmp_path / "whole" / "checkpoint-2" / "optimizer.pt").stat().st_size - 1
    with (
        limited_file_size(limit),
        pytest.raises(OSError, match="checkpoint-2 was not saved, there is no earlier one.*"),
    ):
        trainer.train()
    assert names_in(tmp_path / "run") == []
    again = make_trainer(**settings)
    again.train()
    assert_same_run(again, whole)


@pytest.mark.slow
def test_an_older_checkpoint_that_cannot_be_removed_stops_no_run(make_trainer, tmp_path, monkeypatch, caplog):
    def failing(folder: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(folder))

    monkeypatch.setattr(checkpoint, "remove_folder", failing)
    trainer = make_trainer(save_strategy="steps", save_steps=4, save_total_limit=1, **SETTINGS)
    trainer.train()
    assert trainer.state.global_step == 8
    assert re.search(r"save_total_limit=1: .*Read-only file system: '.*checkpoint-4'", caplog.text)
    for step in (4, 8):
        assert manifest_problem(tmp_path / "run" / f"checkpoint-{step}") is None


# Exports


@pytest.fixture
def finished(make_trainer) -> HomoDistilTrainer:
    trainer = make_trainer(**SETTINGS)
    trainer.train()
    return trainer


@pytest.mark.slow
def test_a_read_only_folder_gets_no_export(finished, make_trainer, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        make_trainer(output_dir=str(disk / "run"), callbacks=[SaveAt(1)], max_steps=2).train()
        with read_only(disk), pytest.raises(OSError, match="Read-only file system; no export was written"):
            finished.export(disk / "run" / "student")
        assert names_in(disk / "run") == ["checkpoint-1", "trainer_state.json"]


def test_what_a_killed_export_left_is_removed_by_the_next(teacher, tmp_path):
    (tmp_path / ".student.staging" / "student").mkdir(parents=True)
    export_student(teacher, tmp_path / "student")
    assert os.listdir(tmp_path) == ["student"]


def test_an_export_that_was_being_replaced_when_its_process_died_comes_back(teacher, tmp_path, monkeypatch):
    folder = export_student(teacher, tmp_path / "student")
    before = contents(folder)
    folder.rename(tmp_path / ".student.outdated")
    with limited_file_size(1000), pytest.raises(OSError, match="the earlier one there is as it was"):
        export_student(teacher, folder, overwrite=True)
    assert contents(folder) == before


# Damage of every file


def spoiled(path: Path, *, damage: str) -> None:
    if damage == "missing":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_damage_of_any_file_of_a_checkpoint(make_trainer, tmp_path, damage):
    settings: dict[str, Any] = SETTINGS | {"save_strategy": "steps", "save_steps": 4}
    whole = make_trainer(**settings)
    whole.train()
    good, bad = (tmp_path / "run" / f"checkpoint-{step}" for step in (4, 8))
    resumed = make_trainer(**settings)
    for path in sorted(path for path in bad.rglob("*") if path.is_file()):
        content = path.read_bytes()
        spoiled(path, damage=damage)
        with pytest.raises(ValueError, match=f"resume from the last good checkpoint, {good}$") as caught:
            resumed.train("last")
        assert path.name in str(caught.value) or path.name == "manifest.json"
        path.write_bytes(content)
    remove_folder(bad)
    resumed.train("last")
    assert_same_run(resumed, whole)


@pytest.mark.slow
def test_a_damaged_newer_checkpoint_takes_no_good_one_away(make_trainer, tmp_path):
    """The run goes on from checkpoint-4 while a damaged checkpoint-8 is there, which is set aside."""
    settings = SETTINGS | {"save_strategy": "steps", "save_total_limit": 1}
    make_trainer(callbacks=[SaveAt(4, 8)], save_steps=100, **settings | {"save_total_limit": None}).train()
    (tmp_path / "run" / "checkpoint-8" / "optimizer.pt").unlink()
    resumed = make_trainer(save_steps=5, **settings | {"max_steps": 6})
    resumed.train(str(tmp_path / "run" / "checkpoint-4"))
    assert names_in(tmp_path / "run") == ["_abandoned-checkpoint-8", "checkpoint-6", "trainer_state.json"]
    assert manifest_problem(tmp_path / "run" / "checkpoint-6") is None
