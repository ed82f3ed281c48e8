"""A push is one commit or nothing and says what to do; what was pushed loads; no teacher runs code of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hub_clients import WAITS_S, as_user, logits_from
from hub_server import Fault, requests_to
from huggingface_hub import ModelCard
from tiny_files import write_teacher
from tiny_models import UNEVEN, make_teacher, random_student
from transformers import BertForMaskedLM

from homodistil_hf.cli import main
from homodistil_hf.export.export_folder import export_student
from homodistil_hf.export.facts import read_facts
from homodistil_hf.export.hub import ensure_repo, push_export, tag_commit, teacher_card
from homodistil_hf.files.hub_errors import HubError, hub_errors
from homodistil_hf.methods.formats import verify_export
from homodistil_hf.models.architectures.modeling_homobert import HomoBertForMaskedLM
from homodistil_hf.models.loading import load_encoder_config

SENTINEL = "hf_sentinelSENTINELsentinel"

# What is done in the client's process.


def push(folder: str, repo_id: str, **settings: Any) -> tuple[str, str]:
    commit = push_export(folder, repo_id, **{"token": "hf_writer", **settings})
    return str(commit), commit.oid


def push_and_count_waits(folder: str, repo_id: str) -> list[float]:
    push(folder, repo_id)
    return list(WAITS_S)


def download_and_verify(repo_id: str, folder: str) -> tuple[str, ...]:
    from huggingface_hub import snapshot_download

    return verify_export(snapshot_download(repo_id, local_dir=folder)).problems


@pytest.fixture(autouse=True)
def _nothing_cached(hub_client, stock_client):
    for client in (hub_client, stock_client):
        client.forget()


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Path]:
    """The same student in both formats."""
    student, parent = random_student(HomoBertForMaskedLM, UNEVEN), tmp_path_factory.mktemp("exports")
    return {format: export_student(student, parent / format, format) for format in ("standard", "compact")}


@pytest.fixture
def folder(exports, tmp_path) -> Path:
    """A standard export of a test's own."""
    return Path(shutil.copytree(exports["standard"], tmp_path / "student"))


def content_of(folder: Path) -> dict[str, bytes]:
    """The files of a folder, as they are in the repository `me/small`: the card's snippet loads from there."""
    found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    if card := found.get("README.md"):
        found["README.md"] = card.replace(b'name = "."  # this folder\n', b'name = "me/small"\n')
    return found


# The push


@pytest.mark.slow
@pytest.mark.parametrize("format", ("standard", "compact"))
def test_a_push_is_one_commit_of_the_files_that_the_facts_list(hub, hub_client, exports, tmp_path, format):
    folder = Path(shutil.copytree(exports[format], tmp_path / "student"))
    (folder / "optimizer.pt").write_bytes(b"pickle")
    (folder / "notes.txt").write_text("mine")
    pushed = hub_client.run(push, str(folder), "small", commit_message="Try", private=format == "compact")
    repo = hub.repos["me/small"]
    assert pushed.value == (f"{hub.url}/me/small/commit/{repo.branches['main']}", repo.branches["main"])
    assert (repo.titles, repo.is_private) == (["initial commit", "Try"], format == "compact")
    assert hub.files("me/small") == content_of(exports[format])


def test_a_dry_run_lists_what_would_be_pushed(exports, capsys, monkeypatch):
    monkeypatch.setattr("homodistil_hf.export.hub.HfApi", None)  # nothing is asked
    folder = exports["compact"]
    assert main(["push", str(folder), "me/small", "--dry_run", "--card_tags", "tiny", "bert"]) == 0
    first, _, rest = capsys.readouterr().out.partition("\n\n")
    listed, _, card = rest.partition("\n\nREADME.md:\n\n")
    assert first.startswith("nothing is sent; 6 files, 0.")
    assert first.endswith(" MB, would go to me/small:")
    sizes = dict(line.split() for line in listed.splitlines())
    known = {path.name: f"{path.stat().st_size:,}" for path in folder.iterdir()}
    assert {name: size for name, size in sizes.items() if name != "README.md"} == {
        name: size for name, size in known.items() if name != "README.md"
    }
    assert sizes.keys() == known.keys()
    assert '\nname = "me/small"\n' in card
    assert "\ntags:\n- homodistil\n- bert\n- tiny\n" in card


def test_a_dry_run_refuses_what_a_push_and_the_hub_refuse(folder, capsys):
    for name in ("a b", "a/b/c", 'x"y'):
        assert main(["push", str(folder), name, "--dry_run"]) == 2
        assert "repo_id" in capsys.readouterr().err.lower().replace("repo id", "repo_id")
    (folder / "README.md").unlink()
    assert main(["push", str(folder), "me/small", "--dry_run"]) == 2
    assert "lacks README.md; export again" in capsys.readouterr().err


@pytest.mark.slow
def test_a_push_replaces_an_earlier_export_and_nothing_else(hub, hub_client, exports, tmp_path):
    hub_client.run(push, str(exports["compact"]), "me/small")
    hub.put("me/small", {"plots/loss.svg": b"<svg/>", "LICENSE": b"words"})
    hub_client.run(push, str(exports["standard"]), "me/small")
    kept = {"plots/loss.svg": b"<svg/>", "LICENSE": b"words"}
    assert hub.files("me/small") == dict(sorted({**content_of(exports["standard"]), **kept}.items()))
    assert len(hub.repos["me/small"].commits) == 4


def test_a_push_of_the_same_makes_no_commit_and_a_branch_has_its_own(hub, hub_client, folder):
    for _ in range(2):
        pushed = hub_client.run(push, str(folder), "me/same")
    assert len(hub.repos["me/same"].commits) == 2
    assert pushed.value[1] == hub.repos["me/same"].branches["main"]
    hub.put("me/small", {"words.txt": b"1"})
    before = hub.repos["me/small"].branches["main"]
    for _ in range(2):
        hub_client.run(push, str(folder), "me/small", revision="try/this")
    assert hub.repos["me/small"].branches["main"] == before
    assert hub.files("me/small", "try/this").keys() == {"words.txt", *content_of(folder)}
    card = hub.files("me/small", "try/this")["README.md"].decode()
    assert 'AutoModelForMaskedLM.from_pretrained(name, revision="try/this")' in card
    assert 'AutoTokenizer.from_pretrained(name, revision="try/this")' in card


def test_a_commit_gets_a_tag(hub, hub_client, folder):
    _, oid = hub_client.run(push, str(folder), "me/small").value
    hub_client.run(as_user, "hf_writer", tag_commit, "me/small", "v1.0", revision=oid)
    assert hub.repos["me/small"].tags == {"v1.0": oid}
    again = hub_client.run(as_user, "hf_writer", tag_commit, "me/small", "v1.0", revision=oid)
    expected = "repo_id='me/small' can't get the tag 'v1.0': it is there already (409); choose another name"
    assert (again.error, again.message) == ("HubError", expected)


def test_only_whole_exports_are_pushed(hub, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"has no facts\.json; expected an export"):
        push_export(tmp_path / "empty", "me/small")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks model\.safetensors; export again"):
        push_export(folder, "me/small")


# What was pushed


@pytest.mark.slow
def test_a_standard_push_loads_without_this_package(hub, hub_client, stock_client, exports):
    hub_client.run(push, str(exports["standard"]), "me/small")
    loaded = stock_client.run(logits_from, "me/small", "BertForMaskedLM").value
    probe = read_facts(exports["standard"])["probe"]
    assert loaded["class"] == "transformers.models.bert.modeling_bert.BertForMaskedLM"
    assert loaded["logits"] == pytest.approx(probe["logits"], abs=1e-4)


@pytest.mark.slow
def test_a_compact_push_runs_its_code_only_for_who_says_so(hub, hub_client, stock_client, exports):
    hub_client.run(push, str(exports["compact"]), "me/small")
    refused = stock_client.run(logits_from, "me/small", "AutoModelForMaskedLM", trust_remote_code=False)
    assert (refused.error, "trust_remote_code=True" in refused.message) == ("ValueError", True)
    allowed = stock_client.run(logits_from, "me/small", "AutoModelForMaskedLM", trust_remote_code=True)
    assert allowed.error is None, allowed.message
    loaded = allowed.value
    assert loaded["class"].startswith("transformers_modules.")
    assert loaded["logits"] == pytest.approx(read_facts(exports["compact"])["probe"]["logits"], abs=1e-4)
    code = [name for name in hub.files("me/small") if name.endswith(".py")]
    assert sorted(code) == ["modeling_homobert.py", "modeling_layerwise.py"]


@pytest.mark.slow
def test_a_downloaded_push_verifies(hub, hub_client, exports, tmp_path):
    for format in ("standard", "compact"):
        hub_client.run(push, str(exports[format]), "me/small")
    assert hub_client.run(download_and_verify, "me/small", str(tmp_path / "down")).value == ()


# What can go wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "/storage/", cut_after_bytes=2000, times=99),
        Fault("POST", "/commit/", status=503, times=99),
    ],
    ids=lambda fault: f"{fault.method} {fault.path} {fault.status or 'cut'}",
)
def test_an_interrupted_push_leaves_the_earlier_one_and_the_next_succeeds(hub, hub_client, exports, folder, fault):
    hub_client.run(push, str(exports["compact"]), "me/small")
    hub.faults.append(fault)
    failed = hub_client.run(push, str(folder), "me/small")
    assert failed.error == "HubError"
    assert failed.message.startswith("repo_id='me/small' can't be pushed to: the ")
    assert failed.message.endswith(f". {folder} is complete; push it again with `homodistil push {folder} me/small`")
    assert hub.files("me/small") == content_of(exports["compact"])
    assert len(hub.repos["me/small"].commits) == 2
    hub.faults.clear()
    assert hub_client.run(push, str(folder), "me/small").error is None
    assert hub.files("me/small") == content_of(folder)


@pytest.mark.parametrize(
    ("fault", "waits_s"),
    [
        (Fault("POST", "/commit/", status=503, times=2), [2, 10]),
        (Fault("POST", "/commit/", cut_after_bytes=300), [2]),
    ],
    ids=lambda value: f"{value.path} {value.status or 'cut'}" if isinstance(value, Fault) else "",
)
def test_a_passing_trouble_is_waited_for(hub, hub_client, folder, fault, waits_s):
    hub.faults.append(fault)
    assert hub_client.run(push_and_count_waits, str(folder), "me/small").value == waits_s
    assert hub.files("me/small") == content_of(folder)
    assert len(hub.repos["me/small"].commits) == 2


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("hf_unknown", "the Hub knows no such token, or wants one (401); log in with `hf auth login` or set HF_TOKEN"),
        ("hf_other", "the token may not do that (403); use one with write access there, or name a repository of your"),
        ("hf_reader", "the token may not do that (403); use one with write access"),
    ],
)
def test_who_may_not_push_is_told_what_to_do(hub, hub_client, folder, token, reason):
    hub.create("me/small")
    for action, arguments in ((push, (str(folder), "me/small")), (ensure_repo, ("me/new",))):
        refused = hub_client.run(action, *arguments, token=token)
        argument = "repo_id" if action is push else "hub_model_id"
        assert refused.error == "HubError"
        assert refused.message.startswith(f"{argument}={arguments[-1]!r} can't be pushed to: {reason}")
    assert hub.files("me/small") == {}
    assert list(hub.repos) == ["me/small"]


def test_a_message_of_the_hub_is_passed_on_without_the_token(hub, hub_client, folder):
    hub.tokens[SENTINEL] = ("me", "write")
    hub.faults.append(Fault("POST", "/commit/", status=400, message=f"Bad token {SENTINEL} in Bearer {SENTINEL}"))
    refused = hub_client.run(as_user, SENTINEL, push_export, str(folder), "me/small")
    assert "Bad token <token> in Bearer <token>" in refused.message
    assert SENTINEL not in refused.message + refused.trace


def test_errors_of_others_are_explained_and_our_own_pass():
    message = "^repo_id='a': the answer is not that of a Hub; check HF_ENDPOINT and the network$"
    with pytest.raises(HubError, match=message), hub_errors("repo_id='a'"):
        json.loads("no JSON")
    with pytest.raises(ZeroDivisionError, match="by zero"), hub_errors("repo_id='a'"):
        1 / 0  # noqa: B018
    with pytest.raises(OSError, match="^repo_id='a': FileNotFoundError: no such file$"), hub_errors("repo_id='a'"):
        raise FileNotFoundError("no\nsuch  file")


# Teachers

TEACHER_CODE = b"""
from pathlib import Path
Path(__file__).with_name("was_here").touch()
Path("@MARK@").touch()
from transformers import BertConfig, BertForMaskedLM, BertTokenizer
"""


def test_a_private_teacher_and_its_revisions(hub, hub_client, tmp_path):
    for size, tag in ((32, "v1"), (16, None)):
        make_teacher(BertForMaskedLM, hidden_size=size).save_pretrained(tmp_path / str(size))
        commit = hub.put("you/bert", content_of(tmp_path / str(size)), is_private=True)
        hub.repos["you/bert"].tags |= {tag: commit.sha} if tag else {}
    for revision, size in (("v1", 32), (None, 16)):
        loaded = hub_client.run(teacher_size, "you/bert", revision=revision, token="hf_other")
        assert loaded.value == (size, size)
    for name, settings in (
        ("you/bert", {"token": "hf_writer"}),
        ("you/bert", {"revision": "v9", "token": "hf_other"}),
    ):
        hub_client.forget()
        refused = hub_client.run(teacher_size, name, **settings)
        expected = f"teacher={name!r} can't be read: there is no such repository or revision, or the token may not see"
        assert (refused.error, refused.message[: len(expected)]) == ("HubError", expected)


def teacher_size(name: str, **settings: Any) -> tuple[int, int]:
    from homodistil_hf.models.loading import load_encoder

    config, model = load_encoder_config(name, **settings), load_encoder(name, **settings)
    return config.hidden_size, model.get_input_embeddings().weight.shape[1]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 503}, "the Hub is in trouble (503); try again later"),
        ({"status": 429}, "the Hub has had too many requests (429); wait some minutes and try again"),
        (
            {"cut_after_bytes": 0},
            "the connection failed (RemoteProtocolError); check network and HF_ENDPOINT, and try again",
        ),
    ],
)
def test_a_teacher_that_cannot_be_reached_is_named(hub, hub_client, tmp_path, fault, reason):
    make_teacher(BertForMaskedLM).save_pretrained(tmp_path / "bert")
    hub.put("you/bert", content_of(tmp_path / "bert"))
    for file in ("config.json", "model.safetensors"):
        hub.faults.append(Fault("HEAD", f"/you/bert/.*/{file}", times=99, **fault))
        refused = hub_client.run(teacher_size, "you/bert")
        assert (refused.error, refused.message) == ("HubError", f"teacher='you/bert' can't be read: {reason}")
        hub.faults.clear()


def test_a_repository_without_a_model_is_named(hub, hub_client):
    hub.put("you/words", {"README.md": b"# Words"})
    refused = hub_client.run(teacher_size, "you/words")
    expected = "teacher='you/words' can't be read: there is no config.json; name the repository of a model"
    assert (refused.error, refused.message) == ("OSError", expected)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ("bert", "roguebert"))
def test_the_code_of_a_teacher_never_runs(hub, hub_client, tmp_path, model_type):
    make_teacher(BertForMaskedLM).save_pretrained(tmp_path / "teacher")
    config = json.loads((tmp_path / "teacher" / "config.json").read_text())
    classes = {"AutoConfig": "rogue.BertConfig", "AutoModelForMaskedLM": "rogue.BertForMaskedLM"}
    config |= {"model_type": model_type, "auto_map": classes}
    tokenizer = {"auto_map": {"AutoTokenizer": ["rogue.BertTokenizer", None]}, "tokenizer_class": "RogueTokenizer"}
    hub.put(
        "you/rogue",
        {
            **content_of(tmp_path / "teacher"),
            "config.json": json.dumps(config).encode(),
            "tokenizer_config.json": json.dumps(tokenizer).encode(),
            "rogue.py": TEACHER_CODE.replace(b"@MARK@", str(tmp_path / "was_here").encode()),
        },
    )
    refused = hub_client.run(teacher_size, "you/rogue")
    reason = "brings its own modelling code" if model_type == "bert" else "has model_type='roguebert'"
    assert (refused.error, reason in refused.message) == ("ValueError", True)
    assert hub_client.run(tokenizer_of, "you/rogue").error == "ValueError"
    assert not (tmp_path / "was_here").exists()
    assert not list(hub_client.home.rglob("was_here"))
    # The same repository does run its code for who asks for that, so the test could fail.
    hub_client.run(load_trusting, "you/rogue")
    assert (tmp_path / "was_here").exists()


def tokenizer_of(name: str) -> None:
    from homodistil_hf.models.tokenizers import load_tokenizer

    load_tokenizer(name)


def load_trusting(name: str) -> None:
    from transformers import AutoConfig

    AutoConfig.from_pretrained(name, trust_remote_code=True)


def test_what_a_teachers_card_states(hub, hub_client):
    hub.put("you/bert", {"README.md": b"---\nlicense: mit\nlanguage: [en, de]\n---\n"}, is_private=True)
    named = {"name": "you/bert", "hub_id": "you/bert"}
    stated = named | {"licence": "mit", "language": ["en", "de"]}
    assert hub_client.run(as_user, "hf_other", teacher_card, "you/bert").value == stated
    assert hub_client.run(as_user, "hf_writer", teacher_card, "you/bert").value == named | {"licence": "unknown"}
    assert len(list(requests_to(hub, "GET", "^/api/models/you/bert"))) == 2


@pytest.mark.parametrize(
    ("stated", "licence", "languages"),
    [
        ("license: [mit, apache-2.0]\nlanguage: no", "mit, apache-2.0", ["no"]),
        ("license: mit\nlanguage:\n- en\n- no", "mit", ["en", "no"]),
        ("tags: []", "unknown", None),
    ],
)
def test_what_a_folders_card_states(tmp_path, stated, licence, languages):
    folder = write_teacher(tmp_path / "teacher")
    (folder / "README.md").write_text(f"---\n{stated}\n---\n")
    found = teacher_card(str(folder))
    assert (found["licence"], found.get("language")) == (licence, languages)
    student = export_student(random_student(HomoBertForMaskedLM, UNEVEN), tmp_path / "student", teacher=str(folder))
    assert verify_export(student).problems == ()
    header = ModelCard.load(student / "README.md").data
    assert header.license == (licence.split(", ") if "," in licence else licence)
