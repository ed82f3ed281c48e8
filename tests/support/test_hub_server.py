"""The Hub of the tests speaks the protocol: huggingface_hub's own client uses it like the real one."""

import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hub_clients
import pytest
from hub_clients import Client, Outcome, repeats_cut_requests
from hub_server import Fault, requests_to

LARGE = bytes(range(256)) * 40
FILES = {"README.md": b"---\nlicense: mit\ntags: [small]\n---\n# Words\n", "a/b/deep.txt": b"deep", "w.bin": LARGE}

if_cuts_are_repeated = pytest.mark.skipif(
    not repeats_cut_requests(), reason="this huggingface_hub gives up when the Hub hangs up; our requests are repeated"
)


@pytest.fixture
def client(stock_client: Client) -> Client:
    return stock_client


@pytest.fixture
def call(client: Client) -> Any:
    """Calls a method of `HfApi` in the client's process."""

    def call(method: str, *arguments: Any, token: str | None = "hf_writer", **settings: Any) -> Outcome:
        return client.run(call_api, method, arguments, {"token": token, **settings})

    return call


def call_api(method: str, arguments: tuple[Any, ...], settings: dict[str, Any]) -> Any:
    from huggingface_hub import HfApi

    found = getattr(HfApi(token=settings.pop("token")), method)(*arguments, **settings)
    return found if isinstance(found, str | dict | list | bool | None) else getattr(found, "__dict__", str(found))


def listed(repo: str, token: str) -> list[tuple[str, int, str | None]]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    entries = HfApi(token=token).list_repo_tree(repo, recursive=True)
    return [
        (entry.path, entry.size, entry.lfs and entry.lfs.sha256) for entry in entries if isinstance(entry, RepoFile)
    ]


def waits() -> list[float]:
    return list(hub_clients.WAITS_S)


def upload_and_count_waits(folder: str, repo: str) -> list[float]:
    from huggingface_hub import HfApi

    HfApi(token="hf_writer").upload_folder(repo_id=repo, folder_path=folder)
    return waits()


def commit(repo: str, adds: dict[str, bytes], deletes: tuple[str, ...] = (), **settings: Any) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    operations = [CommitOperationAdd(path, content) for path, content in adds.items()]
    operations += [CommitOperationDelete(path) for path in deletes]
    return HfApi(token="hf_writer").create_commit(repo, operations, commit_message="Change", **settings).oid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(content)
    return tmp_path / "up"


@pytest.mark.slow
def test_what_goes_up_comes_down(hub, client, call, folder, tmp_path):
    assert call("create_repo", "words").value == f"{hub.url}/me/words"
    call("upload_folder", repo_id="me/words", folder_path=str(folder), commit_message="First")
    assert hub.files("me/words") == dict(sorted(FILES.items()))
    assert hub.repos["me/words"].titles == ["initial commit", "First"]
    down = Path(call("snapshot_download", "me/words", local_dir=str(tmp_path / "down")).value)
    assert {name: (down / name).read_bytes() for name in FILES} == FILES


def test_large_files_lie_elsewhere_and_that_place_sees_no_token(hub, call, folder, tmp_path):
    call("create_repo", "words", private=True)
    call("upload_folder", repo_id="me/words", folder_path=str(folder))
    call("snapshot_download", "me/words", local_dir=str(tmp_path / "down"))
    elsewhere = [asked for asked in hub.requests if asked.host == "localhost"]
    # Parts of 4,000 bytes go up, the whole comes down.
    assert [asked.method for asked in elsewhere] == ["PUT", "PUT", "PUT", "GET"]
    assert {asked.user for asked in elsewhere} == {None}
    assert {asked.user for asked in hub.requests if asked.host != "localhost"} - {"me"} == {None}
    assert [asked.path for asked in hub.requests if asked.host != "localhost" and asked.user is None] == [
        asked.path for asked in requests_to(hub, "POST", "^/complete/")
    ]


def test_a_file_that_is_there_is_not_sent_again(hub, call, folder):
    call("create_repo", "words")
    for repo in ("words", "others"):
        call("create_repo", repo)
        call("upload_folder", repo_id=f"me/{repo}", folder_path=str(folder))
    assert len(list(requests_to(hub, "PUT", "^/storage/"))) == 3
    call("upload_folder", repo_id="me/others", folder_path=str(folder))
    assert len(hub.repos["me/others"].commits) == 2


def test_a_model_is_described(hub, call):
    sha = hub.put("me/words", FILES, is_private=True).sha
    found = call("model_info", "me/words", files_metadata=True).value
    assert (found["id"], found["sha"], found["private"]) == ("me/words", sha, True)
    assert (found["card_data"].license, found["tags"]) == ("mit", ["small"])
    sizes = {file.rfilename: file.size for file in found["siblings"]}
    assert {name: sizes[name] for name in FILES} == {name: len(content) for name, content in FILES.items()}


def test_a_tree_of_several_pages(hub, client):
    hub.put("me/words", {f"{number:02}.txt": b"." * number for number in range(12)} | {"w.bin": LARGE})
    found = client.run(listed, "me/words", "hf_writer").value
    expected = [(".gitattributes", len(hub.repos["me/words"].find("main").files[".gitattributes"].content), None)]
    expected += [(f"{number:02}.txt", number, None) for number in range(12)]
    digest = next(iter(hub.large_files))
    assert sorted(found) == sorted([*expected, ("w.bin", len(LARGE), digest)])
    assert len(list(requests_to(hub, "GET", "/tree/"))) == 3


def test_revisions(hub, call):
    first = hub.put("me/words", {"a.txt": b"1"}).sha
    call("create_tag", "me/words", tag="v1")
    call("create_branch", "me/words", branch="try/this")
    hub.put("me/words", {"a.txt": b"2"})
    hub.put("me/words", {"a.txt": b"3"}, branch="try/this")
    for revision, content in {"v1": b"1", first: b"1", "main": b"2", "try/this": b"3"}.items():
        path = call("hf_hub_download", "me/words", "a.txt", revision=revision).value
        assert Path(path).read_bytes() == content
    assert call("hf_hub_download", "me/words", "a.txt", revision="v9").error == "RevisionNotFoundError"
    assert call("hf_hub_download", "me/words", "b.txt").error == "RemoteEntryNotFoundError"
    refs = call("list_repo_refs", "me/words").value
    assert [ref.name for ref in refs["branches"]] == ["main", "try/this"]
    assert [(ref.name, ref.target_commit) for ref in refs["tags"]] == [("v1", first)]
    assert call("create_tag", "me/words", tag="v1").error == "HfHubHTTPError"
    call("delete_tag", "me/words", tag="v1")
    assert hub.repos["me/words"].tags == {}


@pytest.mark.parametrize(
    ("token", "error"),
    [(None, "RepositoryNotFoundError"), ("hf_other", "RepositoryNotFoundError"), ("hf_reader", None)],
)
def test_a_private_repository(hub, call, token, error):
    hub.put("me/secret", FILES, is_private=True)
    assert call("model_info", "me/secret", token=token).error == error


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("hf_unknown", 401), ("hf_reader", 403), ("hf_other", 403)]
)
def test_who_may_not_write(hub, call, folder, token, status):
    hub.create("me/words")
    before = hub.files("me/words")
    refused = call("upload_folder", repo_id="me/words", folder_path=str(folder), token=token)
    assert (refused.error, f"{status} " in refused.message) == ("HfHubHTTPError", True)
    assert hub.files("me/words") == before


def test_who_am_i(hub, call):
    assert call("whoami").value["name"] == "me"
    assert call("whoami", token="hf_unknown").error == "HfHubHTTPError"


def test_a_commit_that_somebody_else_came_before(hub, client):
    first = hub.put("me/words", {"a.txt": b"1"}).sha
    client.run(commit, "me/words", {"b.txt": b"2"}, ("a.txt",), parent_commit=first)
    assert hub.files("me/words") == {"b.txt": b"2"}
    refused = client.run(commit, "me/words", {"c.txt": b"3"}, parent_commit=first)
    assert "A commit has happened since" in refused.message
    assert client.run(commit, "me/words", {}, ("a.txt",)).error == "RemoteEntryNotFoundError"
    assert hub.files("me/words") == {"b.txt": b"2"}


def test_a_header_that_is_no_yaml_is_refused(hub, client):
    hub.create("me/words")
    assert (
        "Invalid metadata in README.md" in client.run(commit, "me/words", {"README.md": b"---\na: [\n---\n"}).message
    )


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("POST", "/preupload/", status=503, times=3), [1, 2, 4]),
        (Fault("POST", "/preupload/", status=429, headers={"RateLimit": '"api";r=0;t=7'}), [8]),
        (Fault("POST", "/objects/batch", status=502), [1]),
        pytest.param(Fault("PUT", "/storage/.*/part/2", cut_after_bytes=1000), [1], marks=if_cuts_are_repeated),
    ],
)
def test_the_client_tries_again_and_waits_longer_each_time(hub, client, folder, fault, expected):
    hub.create("me/words")
    hub.faults.append(fault)
    assert client.run(upload_and_count_waits, str(folder), "me/words").value == expected
    assert hub.files("me/words") == dict(sorted(FILES.items()))


@if_cuts_are_repeated
def test_an_answer_that_breaks_off_is_asked_for_from_there(hub, call):
    hub.put("me/words", FILES)
    hub.faults.append(Fault("GET", "^/storage/", stop_after_bytes=1500))
    assert Path(call("hf_hub_download", "me/words", "w.bin").value).read_bytes() == LARGE
    assert [asked.status for asked in requests_to(hub, "GET", "^/storage/")] == [200, 206]


def test_a_held_request_waits_for_its_signal(hub):
    hub.put("me/words", FILES)
    hub.faults.append(Fault("GET", "/api/models/me/words", hold_until="go"))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(urllib.request.urlopen, f"{hub.url}/api/models/me/words", timeout=30)
        while not hub.held:
            assert not answer.done()
            time.sleep(0.01)
        assert not hub.requests
        hub_clients.release(hub.url, "go")
        assert answer.result().status == 200
