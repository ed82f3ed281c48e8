"""Training goes on while pushes are slow or fail, a run resumes from the Hub, and no token is left anywhere."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_clients import as_user, logits_from, release
from hub_server import Fault, requests_to
from run_traces import OnStep
from tiny_files import write_config
from tiny_models import make_teacher, tiny_tokenizer
from tiny_trainers import tiny_trainer

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.cli import main
from homodistil_hf.export.facts import read_facts
from homodistil_hf.files.checkpoints import last_checkpoint

SENTINEL = "hf_sentinelSENTINELsentinel"


@pytest.fixture(autouse=True)
def _nothing_cached(hub_client):
    hub_client.forget()


# What is done in the client's process.


def make_trainer(folder: str, **settings: Any) -> HomoDistilTrainer:
    """8 steps; the plan is reached after 3, and every 4th step is saved."""
    steps = {"max_steps": 8, "logging_steps": 2, "save_strategy": "steps", "save_steps": 4}
    steps |= {"pruning_interval_steps": 2, "pruning_end_fraction": 0.3}
    hub = {"push_to_hub": True, "hub_model_id": "me/run", "hub_token": "hf_writer"}
    return tiny_trainer(Path(folder), **steps | hub | settings)


def digest(trainer: HomoDistilTrainer) -> str:
    """Of all that a step depends on: weights and moments, bit by bit."""
    state = [*trainer.model.state_dict().values()]
    for values in trainer.optimizer.state.values():
        state += [value for value in values.values() if torch.is_tensor(value)]
    return hashlib.sha256(b"".join(tensor.detach().contiguous().numpy().tobytes() for tensor in state)).hexdigest()


def train(folder: str, *, resume: str | None = None, final_push: dict[str, Any] | None = None, **settings: Any) -> str:
    trainer = make_trainer(folder, **settings)
    trainer.train(resume)
    if final_push is not None:
        trainer.push_to_hub(**final_push)
    return digest(trainer)


def train_until(folder: str, step: int, **settings: Any) -> None:
    def stop(now: int) -> None:
        trainer.control.should_training_stop |= now == step

    trainer = make_trainer(folder, callbacks=[OnStep(stop)], **settings)
    trainer.train()


def train_beside_a_slow_hub(folder: str, url: str, **settings: Any) -> dict[str, Any]:
    """Steps 5 and 6 are made while the push of the save before them waits for an answer."""
    seen: dict[str, Any] = {}

    def look_and_release(step: int) -> None:
        if step != 6:
            return
        seen["push is done"] = trainer.push_in_progress.is_done()
        seen["checkpoints"] = sorted(path.name for path in Path(folder).glob("checkpoint-*"))
        release(url, "go")

    trainer = make_trainer(folder, callbacks=[OnStep(look_and_release)], **settings)
    trainer.train()
    return seen


def names_and_titles(hub, name="me/run"):
    return sorted(hub.files(name)), hub.repos[name].titles


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Pushes of a run


@pytest.mark.slow
def test_the_end_of_a_run_is_pushed_and_loads_elsewhere(hub, hub_client, stock_client, tmp_path):
    stock_client.forget()
    settings = {"hub_strategy": "end", "hub_private_repo": True, "hub_revision": "runs/a"}
    made = hub_client.run(train, str(tmp_path / "run"), final_push={"tags": "tiny"}, **settings)
    assert made.error is None, made.trace
    assert hub.repos["me/run"].is_private
    assert names_and_titles(hub)[1] == ["initial commit", "End of training"]
    pushed, student = hub.files("me/run", "runs/a"), content_of(tmp_path / "run" / "student")
    assert b"\n- tiny\n" in pushed.pop("README.md")
    student.pop("README.md")
    assert pushed == student
    settings = {"revision": "runs/a", "token": "hf_reader"}
    loaded = stock_client.run(logits_from, "me/run", "BertForMaskedLM", **settings).value["logits"]
    assert loaded == pytest.approx(read_facts(tmp_path / "run" / "student")["probe"]["logits"], abs=1e-4)


@pytest.mark.slow
def test_every_save_is_pushed_once_the_plan_is_reached(hub, hub_client, tmp_path):
    hub_client.run(train, str(tmp_path / "run"), save_steps=2, hub_always_push=True)
    names, titles = names_and_titles(hub)
    assert titles == ["initial commit", *(f"Training in progress, step {step}" for step in (4, 6, 8))]
    assert names == sorted(content_of(tmp_path / "run" / "student"))


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "folders"), [("checkpoint", ["last-"]), ("all_checkpoints", ["-4", "-8"])])
def test_checkpoints_are_pushed_in_folders_of_their_own(hub, hub_client, tmp_path, strategy, folders):
    settings = {"hub_strategy": strategy, "hub_always_push": True, "pruning_end_fraction": 0.7, "save_total_limit": 1}
    assert hub_client.run(train, str(tmp_path / "run"), **settings).error is None
    names, titles = names_and_titles(hub)
    assert titles == [
        "initial commit",
        *(f"Training in progress, {what}" for what in ("checkpoint-4", "checkpoint-8", "step 8")),
    ]
    below = {name.split("/")[0] for name in names if "/" in name}
    assert below == {f"checkpoint{end}" if end.startswith("-") else f"{end}checkpoint" for end in folders}
    assert {name.split("/")[1] for name in names if "/" in name} >= {"optimizer.pt", "manifest.json"}
    pickles = [name for name in names if name.endswith((".pt", ".pth", ".bin"))]
    assert all("/" in name for name in pickles)
    assert not [name for name in pickles if name.endswith("training_args.bin")]


@pytest.mark.slow
def test_a_slow_hub_holds_up_no_step_and_a_checkpoint_stays_until_it_is_there(hub, hub_client, tmp_path):
    settings = {"hub_strategy": "checkpoint", "save_steps": 2, "save_total_limit": 1}
    # Held before any file has been opened.
    hub.faults.append(Fault("POST", "/preupload/", hold_until="go"))
    made = hub_client.run(train_beside_a_slow_hub, str(tmp_path / "run"), hub.url, **settings)
    assert made.error is None, made.trace
    assert made.value == {"push is done": False, "checkpoints": ["checkpoint-2", "checkpoint-4"]}
    # the pushed one goes with the next checkpoint; a push, of this or of a later one, may end after the last
    left = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
    assert "checkpoint-8" in left
    assert len(left) <= 2
    assert "Training in progress, checkpoint-2" in hub.repos["me/run"].titles


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [({"status": 403}, "the token may not do that (403)"), ({"cut_after_bytes": 200}, "the connection failed (")],
)
def test_a_push_that_fails_stops_nothing(hub, hub_client, tmp_path, fault, reason):
    hub.faults.append(Fault("POST", "/commit/", times=99, **fault))
    made = hub_client.run(train, str(tmp_path / "run"), hub_strategy="checkpoint", hub_always_push=True)
    assert made.error is None, made.trace
    assert (
        f"a push during training failed (HubError: repo_id='me/run' can't take checkpoint-8: {reason}" in made.output
    )
    assert f"a push during training failed (HubError: repo_id='me/run' can't be pushed to: {reason}" in made.output
    assert hub.repos["me/run"].titles == ["initial commit"]
    assert read_facts(tmp_path / "run" / "student")
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-8"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint"])
def test_embedding_models_are_pushed_as_their_own_folders(hub, hub_client, tmp_path, strategy):
    from tiny_embeddings import make_sentence_folder

    settings = {"teacher": str(make_sentence_folder(tmp_path / "vectors")), "max_steps": 4, "save_steps": 2}
    settings |= {"push_to_hub": True, "hub_model_id": "me/run", "hub_strategy": strategy, "hub_always_push": True}
    config = write_config(tmp_path, **settings)
    made = hub_client.run(as_user, "hf_writer", main, ["distill", str(config)])
    assert (made.value, made.error) == (0, None), made.output
    pushed, student = hub.files("me/run"), tmp_path / "run" / "student"
    for name in ("modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors", "model.safetensors"):
        assert pushed[name] == (student / name).read_bytes()
    assert ("last-checkpoint/optimizer.pt" in pushed) == (strategy == "checkpoint")


@pytest.mark.parametrize(
    ("token", "reason"),
    [("hf_unknown", "the Hub knows no such token"), ("hf_other", "the token may not do that (403)")],
)
def test_a_run_that_could_not_push_does_not_begin(hub, hub_client, tmp_path, token, reason):
    refused = hub_client.run(train, str(tmp_path / "run"), hub_token=token)
    assert refused.error == "HubError"
    assert refused.message.startswith(f"hub_model_id='me/run' can't be pushed to: {reason}")
    assert hub.repos == {}


def push_untrained(folder: str) -> None:
    make_trainer(folder, push_to_hub=False).push_to_hub()


def test_an_unfinished_student_makes_no_repository(hub, hub_client, tmp_path):
    refused = hub_client.run(push_untrained, str(tmp_path / "run"))
    assert (refused.error, "not reached its plan yet" in refused.message) == ("ValueError", True)
    assert hub.repos == {}


# Resuming


@pytest.mark.slow
def test_a_run_goes_on_from_the_hub_as_if_nothing_had_happened(hub, hub_client, tmp_path):
    whole = hub_client.run(train, str(tmp_path / "whole"), push_to_hub=False).value
    settings = {"hub_strategy": "checkpoint", "hub_private_repo": True}
    assert hub_client.run(train_until, str(tmp_path / "lost"), 4, **settings).error is None
    settings = {"push_to_hub": False, "resume": "hf://me/run@main"}
    resumed = hub_client.run(train, str(tmp_path / "found"), **settings)
    assert (resumed.error, resumed.value) == (None, whole), resumed.trace
    state = json.loads((tmp_path / "found" / "checkpoint-8" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [2, 4, 6, 8]
    refused = hub_client.run(train, str(tmp_path / "other"), hub_token="hf_other", **settings)
    assert refused.message.startswith("resume_from_checkpoint='hf://me/run@main' can't be fetched: there is no such ")
    hub.put("me/run", {"last-checkpoint/optimizer.pt": b"cos\nsystem\n(S'touch was_here'\ntR."})
    refused = hub_client.run(train, str(tmp_path / "other"), **settings)
    assert (refused.error, "optimizer.pt is damaged" in refused.message) == ("ValueError", True)


@pytest.mark.slow
def test_an_optimizer_that_is_a_trojan_is_not_opened(hub, hub_client, tmp_path):
    """Whoever writes a repository can write a manifest that fits; weights_only=True is what is left then."""
    hub_client.run(train_until, str(tmp_path / "lost"), 4, hub_strategy="checkpoint")
    files = hub.files("me/run")
    trojan = b"cposix\nsystem\n(S'touch %s'\ntR." % str(tmp_path / "was_here").encode()
    manifest = json.loads(files["last-checkpoint/manifest.json"])
    manifest["sha256"]["optimizer.pt"] = hashlib.sha256(trojan).hexdigest()
    changed = {"optimizer.pt": trojan, "manifest.json": json.dumps(manifest).encode()}
    hub.put("me/run", {f"last-checkpoint/{name}": content for name, content in changed.items()})
    refused = hub_client.run(train, str(tmp_path / "found"), push_to_hub=False, resume="hf://me/run")
    assert "Weights only load failed" in refused.message
    assert (tmp_path / "found" / "checkpoint-4" / "optimizer.pt").read_bytes() == trojan
    assert not (tmp_path / "was_here").exists()


# Tokens


@pytest.mark.slow
def test_no_token_is_left_anywhere(hub, hub_client, tmp_path):
    hub.tokens[SENTINEL] = ("me", "write")
    folder = tmp_path / "here"
    folder.mkdir()
    make_teacher().save_pretrained(tmp_path / "bert")
    tiny_tokenizer().save_pretrained(tmp_path / "bert")
    commit = hub.put(
        "me/bert", {"README.md": b"---\nlicense: mit\n---\n", **content_of(tmp_path / "bert")}, is_private=True
    )
    config = write_config(
        folder,
        teacher="me/bert",
        teacher_revision=commit.sha,
        max_steps=8,
        hub_token=SENTINEL,
        push_to_hub=True,
        hub_model_id="me/run",
        hub_strategy="checkpoint",
        hub_always_push=True,
        eval_strategy="steps",
        eval_steps=4,
    )
    hub.faults.append(Fault("POST", "/preupload/", status=503))
    hub.faults.append(Fault("POST", "/commit/", status=400, message=f"Bad Bearer {SENTINEL}"))
    made = hub_client.run(main, ["distill", str(config)])
    assert (made.value, made.error) == (0, None), made.trace
    assert "a push during training failed (HubError: " in made.output
    refused = hub_client.run(main, ["distill", str(config), "--overwrite_output_dir", "--max_steps", "x"])
    assert refused.value == 2
    written = {str(path): path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()}
    pushed = {
        (sha, path): blob.content
        for sha, commit in hub.repos["me/run"].commits.items()
        for path, blob in commit.files.items()
    }
    assert {Path(path).name for path in written} >= {"training_args.bin", "trainer_state.json", "facts.json"}
    assert {path for _, path in pushed} >= {"facts.json", "README.md", "last-checkpoint/trainer_state.json"}
    titles = [title for repo in hub.repos.values() for title in repo.titles]
    texts = [*written.values(), *pushed.values(), *(text.encode() for text in titles)]
    assert not [text for text in texts if SENTINEL.encode() in text]
    # The client's HTTP library logs the headers of an answer at DEBUG, and this Hub quotes the token in one.
    told = [line for line in (made.output + refused.output).splitlines() if "receive_response_headers" not in line]
    assert [line for line in told if SENTINEL in line] == []
    card = hub.files("me/run")["README.md"].decode()
    assert "base_model: me/bert" in card
    assert {asked.user for asked in requests_to(hub, "POST", "/commit/")} == {"me"}


def test_the_command_asks_for_the_checkpoint_first(hub_client, hub, tmp_path):
    refused = hub_client.run(
        main, ["distill", str(write_config(tmp_path)), "--resume_from_checkpoint", "hf://me/run/checkpoint-4"]
    )
    assert refused.value == 2
    assert "resume_from_checkpoint='hf://me/run/checkpoint-4' can't be fetched: " in refused.output
    assert not list(requests_to(hub, "GET", "/tree/"))


@pytest.mark.parametrize("given", ({"hub_token": [SENTINEL]}, {"hf_token": SENTINEL}, {"hub_tokn": SENTINEL}))
def test_a_token_in_the_wrong_place_is_not_told(tmp_path, capsys, given):
    assert main(["distill", str(write_config(tmp_path, **given))]) == 2
    told = capsys.readouterr().err
    assert (next(iter(given)) in told, "<token>" in told, SENTINEL in told) == (True, True, False)
