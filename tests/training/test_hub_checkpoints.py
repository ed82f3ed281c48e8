"""A checkpoint goes up and comes down whole or not at all; nothing of it is used before its digests are checked."""

import json
import shutil
from pathlib import Path

import pytest
from hub_server import Fault, Hub
from rows import each

from homodistil_hf.files.checkpoints import MANIFEST_NAME, manifest_problem, write_manifest
from homodistil_hf.training.publishing import (
    check_address,
    fetch_checkpoint,
    parse_address,
    push_checkpoint,
)
from homodistil_hf.training.run_folder import is_hub_address

CONTENT = {
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 30,
    "optimizer.pt": b"a pickle" * 700,
    "training_args.bin": b"settings of this machine",
    "trainer_state.json": b'{"global_step": 8}',
}


@pytest.fixture(autouse=True)
def _nothing_cached(hub_client):
    hub_client.forget()


def write_checkpoint(folder: Path, **content: bytes | None) -> Path:
    """A checkpoint with its manifest; None leaves a file out."""
    folder.mkdir(parents=True)
    for name, value in {**CONTENT, **content}.items():
        if value is not None:
            (folder / name).write_bytes(value)
    write_manifest(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return write_checkpoint(tmp_path / "here" / "checkpoint-8")


@pytest.fixture
def pushed(hub, hub_client, checkpoint) -> Hub:
    """The Hub with the checkpoint in `me/run`."""
    assert hub_client.run(push_checkpoint, str(checkpoint), "me/run", token="hf_writer").error is None
    return hub


def fetched(hub_client, output_dir, address="hf://me/run", token="hf_writer"):
    return hub_client.run(fetch_checkpoint, address, str(output_dir), token=token)


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME}


TRAVELLING = {name: content for name, content in CONTENT.items() if name != "training_args.bin"}


# Addresses


@each(
    ("address", "expected"),
    [
        ("hf://me/run", ("me/run", None, "last-checkpoint")),
        ("hf://me/run@main", ("me/run", "main", "last-checkpoint")),
        ("hf://me/run@try%2Fthis/checkpoint-8", ("me/run", "try/this", "checkpoint-8")),
        ("hf://models/me/run.v2/runs/a/", ("me/run.v2", None, "runs/a")),
    ],
)
def test_addresses(address, expected):
    assert is_hub_address(address)
    assert parse_address(address) == expected


@each("address", ("hf://", "hf://me", "hf://me/run@", "hf://me/run/../x", "hf://me/r un", "hf:///run"))
def test_no_addresses(address):
    with pytest.raises(ValueError, match=r"is no address on the Hub; expected hf://user/name\[@revision\]\[/folder\]"):
        parse_address(address)


@each("value", (None, True, False, "last", "runs/a/checkpoint-8", "me/run", Path("hf://me/run")))
def test_other_ways_to_name_a_checkpoint(value):
    assert not is_hub_address(value)


# Up


@pytest.mark.slow
def test_a_checkpoint_goes_up_as_a_folder_and_comes_down_whole(pushed, hub_client, tmp_path):
    manifest = json.loads(pushed.files("me/run")[f"last-checkpoint/{MANIFEST_NAME}"])
    assert manifest["sha256"].keys() == TRAVELLING.keys()
    found = {path.removeprefix("last-checkpoint/"): content for path, content in pushed.files("me/run").items()}
    found.pop(MANIFEST_NAME)
    assert found == TRAVELLING
    assert pushed.repos["me/run"].titles == ["initial commit", "Training in progress, checkpoint-8"]
    folder = fetched(hub_client, tmp_path / "there").value
    assert folder == tmp_path / "there" / "checkpoint-8"
    assert manifest_problem(folder) is None
    assert content_of(folder) == TRAVELLING
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["checkpoint-8"]


def test_the_next_checkpoint_replaces_the_folder_and_nothing_else(pushed, hub_client, tmp_path):
    pushed.put("me/run", {"README.md": b"# Words", "last-checkpointed.txt": b"words"})
    state = {"trainer_state.json": b'{"global_step": 12}', "rng_state.pth": b"dice", "config.json": None}
    following = write_checkpoint(tmp_path / "checkpoint-12", **state)
    hub_client.run(push_checkpoint, str(following), "me/run", token="hf_writer")
    names = {path for path in pushed.files("me/run") if path.startswith("last-checkpoint/")}
    expected = {*(TRAVELLING.keys() - {"config.json"}), "rng_state.pth", MANIFEST_NAME}
    assert names == {f"last-checkpoint/{name}" for name in expected}
    assert pushed.files("me/run").keys() - names == {"README.md", "last-checkpointed.txt"}
    assert fetched(hub_client, tmp_path / "there").value.name == "checkpoint-12"


def test_a_damaged_checkpoint_is_not_pushed(hub, checkpoint):
    (checkpoint / "optimizer.pt").write_bytes(b"another pickle")
    with pytest.raises(ValueError, match=r"checkpoint-8' can't be pushed: optimizer\.pt is damaged"):
        push_checkpoint(checkpoint, "me/run")
    assert hub.requests == []


# Down


def test_a_checkpoint_of_a_revision_and_of_another_folder(hub, hub_client, checkpoint, tmp_path):
    settings = {"token": "hf_writer", "revision": "runs/a", "path_in_repo": "checkpoint-8", "private": True}
    commit = hub_client.run(push_checkpoint, str(checkpoint), "me/run", **settings).value
    assert hub.files("me/run") == {}
    sha = commit.rsplit("/", 1)[1]
    for number, revision in enumerate(("runs%2Fa", sha)):
        address = f"hf://me/run@{revision}/checkpoint-8"
        assert hub_client.run(check_address, address, token="hf_writer").error is None
        assert content_of(fetched(hub_client, tmp_path / str(number), address).value) == TRAVELLING
    refused = fetched(hub_client, tmp_path / "none", f"hf://me/run@{sha}/checkpoint-8", token="hf_other")
    assert (refused.error, "the token may not see it (404)" in refused.message) == ("HubError", True)


@pytest.mark.parametrize("address", ("hf://me/run/checkpoint-9", "hf://me/run@empty"))
def test_no_checkpoint_there(pushed, hub_client, tmp_path, address):
    pushed.repos["me/run"].branches["empty"] = next(iter(pushed.repos["me/run"].commits))
    for refused in (fetched(hub_client, tmp_path / "there", address), hub_client.run(check_address, address)):
        assert refused.error == "ValueError"
        assert refused.message.startswith(f"resume_from_checkpoint='{address}' holds no checkpoint (")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"optimizer.pt": b"a pickled trojan"}, "optimizer.pt is damaged (its SHA-256 differs from the manifest's)"),
        ({"scheduler.pt": b"a pickled trojan"}, "scheduler.pt is a pickle that manifest.json doesn't list"),
        ({MANIFEST_NAME: b"{"}, "manifest.json is damaged"),
        ({"config.json": None}, "config.json is missing"),
    ],
)
def test_what_is_not_as_it_was_saved_is_refused(pushed, hub_client, tmp_path, files, problem):
    pushed.put("me/run", {f"last-checkpoint/{name}": content for name, content in files.items() if content})
    for name in (name for name, content in files.items() if content is None):
        del pushed.repos["me/run"].find("main").files[f"last-checkpoint/{name}"]
    refused = fetched(hub_client, tmp_path / "there")
    assert (refused.error, problem in refused.message) == ("ValueError", True)
    assert not list((tmp_path / "there").glob("checkpoint-*"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "state", (b"{}", b'{"global_step": "8/../../x"}', b'{"global_step": -1}', b"no JSON", b"[" * 100_000, b"[]", None)
)
def test_a_checkpoint_of_somebody_else(hub, hub_client, tmp_path, state):
    checkpoint = write_checkpoint(tmp_path / "checkpoint-8", **{"trainer_state.json": state})
    hub_client.run(push_checkpoint, str(checkpoint), "me/run", token="hf_writer")
    refused = fetched(hub_client, tmp_path / "there")
    assert (refused.error, "has no global_step in trainer_state.json" in refused.message) == ("ValueError", True)
    assert not list((tmp_path / "there").glob("checkpoint-*"))


def test_names_that_lead_out_of_the_folder(pushed, hub_client, tmp_path):
    pushed.put("me/run", {"last-checkpoint/../../../escaped.txt": b"words"})
    refused = fetched(hub_client, tmp_path / "there")
    assert (refused.error, "escaped.txt" in refused.message) == ("ValueError", True)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_an_interrupted_download_leaves_no_checkpoint_and_the_next_succeeds(pushed, hub_client, tmp_path):
    pushed.faults.append(Fault("GET", r"^/storage/", stop_after_bytes=2500, times=1))
    pushed.faults.append(Fault("GET", r"^/storage/", status=503, times=99))
    failed = fetched(hub_client, tmp_path / "there")
    assert (failed.error, "the Hub is in trouble (503)" in failed.message) == ("HubError", True)
    assert not list((tmp_path / "there").glob("checkpoint-*"))
    pushed.faults.clear()
    assert content_of(fetched(hub_client, tmp_path / "there").value) == TRAVELLING
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["checkpoint-8"]


def test_a_checkpoint_that_is_there_already_is_kept(pushed, hub_client, checkpoint, tmp_path):
    there = Path(shutil.copytree(checkpoint, tmp_path / "there" / "checkpoint-8"))
    before = {path.name: path.stat().st_ino for path in there.iterdir()}
    assert fetched(hub_client, tmp_path / "there").value == there
    assert {path.name: path.stat().st_ino for path in there.iterdir()} == before
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["checkpoint-8"]


def test_another_checkpoint_of_that_step_is_not_replaced(pushed, hub_client, tmp_path):
    there = write_checkpoint(tmp_path / "there" / "checkpoint-8", **{"optimizer.pt": b"mine"})
    refused = fetched(hub_client, tmp_path / "there")
    assert (refused.error, "is another checkpoint-8 than the one in output_dir=" in refused.message) == (
        "ValueError",
        True,
    )
    assert (there / "optimizer.pt").read_bytes() == b"mine"
