"""Checkpoint folders are complete or absent, and damage is named before anything is loaded."""

import json
from pathlib import Path

import pytest
from rows import each
from small_disk import limited_file_size

from homodistil_hf.files.checkpoints import (
    MANIFEST_NAME,
    check_manifest,
    file_digest,
    last_checkpoint,
    manifest_problem,
    model_written,
    rotate,
    sorted_checkpoints,
    write_manifest,
)
from homodistil_hf.files.folders import publish


def make_checkpoint(parent: Path, step: int) -> Path:
    folder = parent / f"checkpoint-{step}"
    (folder / "nested").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "nested" / "state.json").write_text("{}", encoding="utf-8")
    write_manifest(folder)
    return folder


def test_manifest_lists_the_sha256_of_every_file(tmp_path):
    folder = make_checkpoint(tmp_path, 1)
    manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    assert manifest["sha256"] == {
        "model.safetensors": "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c",
        "nested/state.json": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    }
    (folder / "notes.md").write_text("a callback's, and no pickle", encoding="utf-8")
    check_manifest(folder)
    assert manifest_problem(tmp_path / "checkpoint-3") == "there is no such folder"


def test_digest_of_a_file_of_several_blocks(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"\0" * (1 << 21))
    assert file_digest(path) == "5647f05ec18958947d32874eeb788fa396a05d0bab7c1b71f112ceb7e9b31eee"


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped bit": (lambda f: flip_last_bit(f / "model.safetensors"), "model.safetensors is damaged"),
    "missing file": (lambda f: (f / "nested" / "state.json").unlink(), "nested/state.json is missing"),
    "no manifest": (lambda f: (f / MANIFEST_NAME).unlink(), "manifest.json is missing"),
    "broken manifest": (lambda f: (f / MANIFEST_NAME).write_text('{"sha256": '), "manifest.json is damaged"),
    "smuggled pickle": (
        lambda f: (f / "scaler.pt").write_bytes(b""),
        "scaler.pt is a pickle that manifest.json",
    ),
    "smuggled link": (
        lambda f: (f / "optimizer.pt").symlink_to("../checkpoint-10/model.safetensors"),
        "optimizer.pt is a link that leads out of it",
    ),
}


@each("damage", DAMAGES)
def test_damage_is_named_with_the_last_good_checkpoint(tmp_path, damage):
    make_checkpoint(tmp_path, 5)
    good, bad = make_checkpoint(tmp_path, 10), make_checkpoint(tmp_path, 20)
    spoil, problem = DAMAGES[damage]
    spoil(bad)
    with pytest.raises(ValueError, match=f"checkpoint-20' can't be used: {problem}.*good checkpoint, {good}$"):
        check_manifest(bad)
    assert last_checkpoint(tmp_path) == good


def test_damage_without_another_checkpoint(tmp_path):
    bad = make_checkpoint(tmp_path, 20)
    (bad / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="model.safetensors is missing; there is no other checkpoint beside it"):
        check_manifest(bad)
    assert last_checkpoint(tmp_path) is None


def test_checkpoints_are_sorted_by_step_not_by_name(tmp_path):
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-100", "checkpoint-x", ".staging", "student"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-7").write_text("a file", encoding="utf-8")
    assert [path.name for path in sorted_checkpoints(tmp_path)] == ["checkpoint-100", "checkpoint-10", "checkpoint-9"]
    assert sorted_checkpoints(tmp_path / "absent") == []


@pytest.mark.slow
def test_no_flipped_bit_of_a_manifest_passes(tmp_path):
    folder = make_checkpoint(tmp_path, 1)
    path = folder / MANIFEST_NAME
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            spoiled = bytearray(content)
            spoiled[position] ^= 1 << bit
            path.write_bytes(spoiled)
            assert manifest_problem(folder) is not None, (position, bit)


def test_a_checkpoint_that_was_being_replaced_counts_until_its_successor_is_there(tmp_path):
    old = make_checkpoint(tmp_path, 8)
    old.rename(tmp_path / ".checkpoint-8.outdated")
    make_checkpoint(tmp_path, 4)
    assert [path.name for path in sorted_checkpoints(tmp_path)] == [".checkpoint-8.outdated", "checkpoint-4"]
    assert last_checkpoint(tmp_path) == tmp_path / ".checkpoint-8.outdated"
    publish(make_checkpoint(tmp_path / ".staging", 8), tmp_path / "checkpoint-8")
    assert [path.name for path in sorted_checkpoints(tmp_path)] == ["checkpoint-8", "checkpoint-4"]


def test_the_last_checkpoint_before_a_step(tmp_path):
    for step in (4, 8, 12):
        make_checkpoint(tmp_path, step)
    names = [getattr(last_checkpoint(tmp_path, before_step=step), "name", None) for step in (13, 12, 8, 4)]
    assert names == ["checkpoint-12", "checkpoint-8", "checkpoint-4", None]
    (tmp_path / "checkpoint-30").mkdir()  # incomplete
    assert last_checkpoint(tmp_path).name == "checkpoint-12"
    assert last_checkpoint(tmp_path, skip=tmp_path / "checkpoint-12").name == "checkpoint-8"


def test_a_model_that_finds_no_room_is_not_written_at_all(tmp_path):
    message = "File too large; .*model was not written. Start again: '.*model'"
    with (
        limited_file_size(4096),
        pytest.raises(OSError, match=message),
        model_written(tmp_path / "model", remedy="Start again") as aside,
    ):
        (aside / "big").write_bytes(b"0" * 9999)
    assert list(tmp_path.iterdir()) == []


@each(
    ("limit", "kept", "left"),
    [
        (None, [12], [4, 8, 12, 16]),
        (0, [12], [4, 8, 12, 16]),
        (1, [12], [12]),
        (2, [12], [8, 12]),  # 16 is from before the run went back to 8
        (3, [12, 4], [4, 8, 12]),
        (1, [12, 4], [4, 12]),
        (4, [12], [4, 8, 12, 16]),
    ],
)
def test_what_rotation_leaves(tmp_path, limit, kept, left):
    for step in (4, 8, 12, 16):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 2).rename(tmp_path / ".checkpoint-2.removed")
    rotate(tmp_path, limit=limit, keep=[tmp_path / f"checkpoint-{step}" for step in kept])
    assert sorted(int(path.name.partition("-")[2]) for path in sorted_checkpoints(tmp_path)) == left
    assert (tmp_path / ".checkpoint-2.removed").exists() == (limit in (None, 0))
