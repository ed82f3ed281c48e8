"""Folders appear, change and vanish as a whole, and a failure to write names the file."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rows import each
from safetensors.torch import save_file
from small_disk import room_for, small_disk

from homodistil_hf.files import folders as durable
from homodistil_hf.files.folders import (
    check_archives,
    check_writable,
    check_writable_file,
    is_path,
    naming_the_file,
    publish,
    recover,
    refuse_missing,
    remove_folder,
    remove_leftovers,
    write_text,
)


def make_folder(path: Path, text: str = "text") -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(text, encoding="utf-8")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, module: object, function: str, call: int) -> None:
    """Die before the n-th call of a function, from 1."""
    original, calls = getattr(module, function), []

    def dying(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, dying)


# Publishing


@pytest.mark.parametrize(
    ("call", "left", "text"),
    [
        (1, ["folder", "staged"], "old"),  # before the older one is moved away
        (2, [".folder.outdated", "staged"], "old"),
        (3, [".folder.outdated", "folder"], "new"),  # before the older one is removed
    ],
)
def test_a_kill_while_a_folder_is_replaced_leaves_one_of_both(tmp_path, monkeypatch, call, left, text):
    final, staged = make_folder(tmp_path / "folder", "old"), make_folder(tmp_path / "staged", "new")
    kill_at(monkeypatch, os, "rename", call)
    with pytest.raises(Killed):
        publish(staged, final)
    monkeypatch.undo()
    assert names(tmp_path) == left
    recover(final)
    assert (final / "file").read_text(encoding="utf-8") == text
    publish(make_folder(tmp_path / "another", "newest"), final)
    assert (final / "file").read_text(encoding="utf-8") == "newest"
    assert names(tmp_path) == sorted({"folder", "staged"} & {*left, "folder"})


@pytest.mark.parametrize("remove", [remove_folder, lambda link: publish(make_folder(link.parent / "staged"), link)])
def test_a_link_to_a_folder_goes_and_the_folder_stays(tmp_path, remove):
    elsewhere = make_folder(tmp_path / "elsewhere")
    run = make_folder(tmp_path / "run")
    (run / "checkpoint-2").symlink_to(elsewhere, target_is_directory=True)
    remove(run / "checkpoint-2")
    assert not (run / "checkpoint-2").is_symlink()
    assert set(names(run)) <= {"checkpoint-2", "file"}
    assert (elsewhere / "file").read_text(encoding="utf-8") == "text"


def test_a_rename_that_fails_brings_the_older_folder_back(tmp_path, monkeypatch):
    final = make_folder(tmp_path / "folder", "old")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if source == tmp_path / "staged":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        publish(make_folder(tmp_path / "staged", "new"), final)
    assert (final / "file").read_text(encoding="utf-8") == "old"


def test_all_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    events: list[str] = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda number: (events.append(Path(f"/proc/self/fd/{number}").resolve().name), fsync(number))
    )
    monkeypatch.setattr(os, "rename", lambda *paths: (events.append("rename"), rename(*paths)))
    staged = make_folder(tmp_path / "staged" / "inner")
    publish(staged.parent, tmp_path / "final")
    assert sorted(events[:3]) == ["file", "inner", "staged"]
    assert events[3:] == ["rename", tmp_path.name]


def test_folders_that_cannot_be_synced_are_published_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def failing(number: int) -> None:
        if Path(f"/proc/self/fd/{number}").resolve().is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(number)

    monkeypatch.setattr(os, "fsync", failing)
    publish(make_folder(tmp_path / "staged"), tmp_path / "final")
    assert names(tmp_path) == ["final"]


# Removing


def test_half_a_folder_is_never_seen_under_its_name(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "checkpoint-4")
    kill_at(monkeypatch, durable.shutil, "rmtree", 1)
    with pytest.raises(Killed):
        remove_folder(folder)
    monkeypatch.undo()
    assert names(tmp_path) == [".checkpoint-4.removed"]
    make_folder(folder)
    remove_folder(folder)
    assert names(tmp_path) == []


def test_leftovers_of_removing_are_removed_and_nothing_else(tmp_path):
    for name in (".checkpoint-4.removed", ".checkpoint-8.outdated", "checkpoint-8.removed", ".staging"):
        make_folder(tmp_path / name)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".checkpoint-8.outdated", ".staging", "checkpoint-8.removed"]


def test_a_text_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_text(path, "old")
    kill_at(monkeypatch, os, "replace", 1)
    with pytest.raises(Killed):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    monkeypatch.undo()
    write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"
    (tmp_path / "facts.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "facts.json", "text")
    assert names(tmp_path) == ["facts.json", "results.json"]


# Failures to write

TENSORS = {"weight": torch.zeros(1 << 19)}
WRITERS: dict[str, Callable[[Path], object]] = {
    "model.safetensors": lambda path: save_file(TENSORS, path),
    "optimizer.pt": lambda path: torch.save(TENSORS, path),
    "state.json": lambda path: path.write_text("x" * (1 << 21), encoding="utf-8"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_alike_by_every_library(tmp_path, name):
    with small_disk(tmp_path / "disk") as disk:
        (disk / "config.json").write_text("{}", encoding="utf-8")
        expected = "No space left on device, [0-9,]+ bytes are free there: '.*/disk'$"
        with room_for(disk, 1 << 20), pytest.raises(OSError, match=expected) as caught, naming_the_file(disk):
            WRITERS[name](disk / name)
        assert caught.value.errno == errno.ENOSPC


def test_a_copy_on_a_full_disk_names_the_copy_and_not_what_is_read(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "x").write_bytes(b"x" * (1 << 21))
    with small_disk(tmp_path / "disk") as disk:
        (disk / "copies").mkdir()
        with room_for(disk, 1 << 20), pytest.raises(OSError, match="No space left") as caught, naming_the_file(disk):
            shutil.copyfile(tmp_path / "source" / "x", disk / "copies" / "x")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(disk / "copies" / "x"))


@pytest.mark.parametrize("num_missing", [1, 100, 1000])
def test_an_archive_that_lacks_its_end_is_named(tmp_path, num_missing):
    path = tmp_path / "checkpoint-4" / "optimizer.pt"
    path.parent.mkdir()
    torch.save(TENSORS, path)
    check_archives(tmp_path)
    os.truncate(path, path.stat().st_size - num_missing)
    with pytest.raises(OSError, match=r"Input/output error: '.*/checkpoint-4/optimizer.pt'$"):
        check_archives(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError("ranks differ"), OSError("no Hub"), ValueError("no plan")])
def test_errors_that_are_not_of_the_disk_pass(tmp_path, error):
    with pytest.raises(type(error), match=str(error)) as caught, naming_the_file(tmp_path):
        raise error
    assert caught.value is error
    with pytest.raises(FileNotFoundError, match="absent"), naming_the_file(tmp_path, file="other"):
        (tmp_path / "absent").read_text(encoding="utf-8")  # which the error names itself


# Places that can't be written


@pytest.mark.parametrize("place", ["file/new", "file", "file/a/b"])
def test_a_place_in_a_file_can_not_be_written(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"output='x' can't be written \(Not a directory\)"):
        check_writable(tmp_path / place, "output='x'")


def test_a_trial_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "a" / "b", "output='a/b'")
    check_writable_file(tmp_path / "a" / "b.md", "output='a/b.md'")
    assert not list(tmp_path.iterdir())
    for name in ("", tmp_path):
        with pytest.raises(ValueError, match="is no name of a file"):
            check_writable_file(name, f"output={str(name)!r}")


@each(
    ("place", "reason"),
    [
        ("loop/a.md", "Too many levels of symbolic links"),
        ("gone/a.md", "No such file or directory"),
    ],
)
@each("check", [check_writable, check_writable_file])
def test_a_name_that_nothing_can_have_is_refused(tmp_path, check, place, reason):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        ValueError, match=rf"^output=x can't be written \({reason}\); name a place where you may write$"
    ):
        check(f"{tmp_path}/{place}", "output=x")
    assert names(tmp_path) == ["gone", "loop"]


def test_paths_are_told_from_names_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    paths = ("./a", "/a", "~/a", "a/b/c", "runs/a")
    assert [is_path(name) for name in (*paths, "bert", "google/bert")] == [True] * 5 + [False] * 2
    for name in paths:
        with pytest.raises(FileNotFoundError, match="teacher does not exist; expected a folder, or a name on the Hub"):
            refuse_missing(name, "teacher")
    with pytest.raises(ValueError, match="teacher is empty"):
        refuse_missing(" ", "teacher")
    refuse_missing("google/bert", "teacher")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_weights_may_be_read_by_those_who_read_the_folder(tmp_path, mask):
    earlier = os.umask(mask)
    try:
        staged = make_folder(tmp_path / "staged")
        (staged / "2_Dense").mkdir()
        for name in ("model.safetensors", "2_Dense/model.safetensors"):
            save_file({"weight": torch.ones(2)}, staged / name)
        publish(staged, tmp_path / "final")
    finally:
        os.umask(earlier)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "final").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}
