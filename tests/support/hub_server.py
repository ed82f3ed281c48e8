"""A Hub on this machine: real HTTP on 127.0.0.1, the part of the protocol that huggingface_hub's own client uses.

It keeps repositories, branches, tags, commits and large files in memory, knows users and their tokens, and can be told
to fail: with a status, after so many bytes, or only once it is let go. What huggingface_hub does by itself with the
real one (parts of files, pages of listings) is not here.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USERS = {"hf_writer": ("me", "write"), "hf_reader": ("me", "read"), "hf_other": ("you", "write")}
LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
HOLD_TIMEOUT_S = 60
_REPO = r"(?P<repo>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"


@dataclass(frozen=True)
class Blob:
    """A file: its bytes, and whether they lie in the storage of large files."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def oid(self) -> str:
        """What git would call it: of a large file the pointer is in the repository."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        content = pointer.encode() if self.is_large else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def listing(self, path: str) -> dict[str, Any]:
        large = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        entry = {"type": "file", "path": path, "oid": self.oid, "size": len(self.content)}
        return entry | {"lfs": large} if self.is_large else entry


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """Commits by their digest; branches and tags name some of them."""

    is_private: bool
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        content = repr((len(self.commits), title, sorted((path, blob.oid) for path, blob in files.items())))
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), title, files)
        self.commits[commit.sha] = commit
        self.branches[branch] = commit.sha
        return commit

    def find(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    @property
    def titles(self) -> list[str]:
        """Of all commits, oldest first."""
        return [commit.title for commit in self.commits.values()]


@dataclass
class Fault:
    """What goes wrong with the next requests that match.

    Args:
        method: `"PUT"`, for instance.
        path: regular expression, searched in the path.
        status: answer with it.
        message: of that answer.
        cut_after_bytes: take so much of the body, then cut the connection.
        stop_after_bytes: answer with so much of the content, then cut the connection.
        hold_until: name of a signal; the request is answered after it (or with 504 when it doesn't come).
        times: how many requests.
    """

    method: str
    path: str
    status: int | None = None
    message: str = "injected"
    cut_after_bytes: int | None = None
    stop_after_bytes: int | None = None
    hold_until: str | None = None
    times: int = 1


@dataclass(frozen=True)
class Request:
    """A request that was answered; its token is remembered as the name of who holds it."""

    method: str
    path: str
    user: str | None
    status: int


class Refusal(Exception):
    """Ends a request with an error of the Hub."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **(headers or {})}


class Hub:
    """The server; a context manager. Its state may be looked at and set between requests.

    `tokens` are token → (user, role); role `"read"` or `"write"`.
    """

    def __init__(self) -> None:
        self.tokens = dict(USERS)
        self.repos: dict[str, Repo] = {}
        self.large_files: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.signals: dict[str, threading.Event] = {}
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.storage_url = f"http://localhost:{self.port}"  # another host, as on the real one

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signal in self.signals.values():
            signal.set()
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """Forget everything but the users."""
        for signal in self.signals.values():
            signal.set()
        for state in (self.repos, self.large_files, self.faults, self.requests, self.signals):
            state.clear()

    def create(self, name: str, *, is_private: bool = False) -> Repo:
        """A repository as the Hub makes it: with one file of its own."""
        repo = self.repos[name] = Repo(is_private)
        attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES)
        repo.commit("main", "initial commit", {".gitattributes": Blob(attributes.encode(), False)})
        return repo

    def put(self, name: str, files: dict[str, bytes], *, branch: str = "main", is_private: bool = False) -> Commit:
        """Files as somebody else has pushed them."""
        repo = self.repos.get(name) or self.create(name, is_private=is_private)
        blobs = {path: Blob(content, path.endswith(LARGE_SUFFIXES)) for path, content in files.items()}
        self.large_files |= {blob.sha256: blob.content for blob in blobs.values() if blob.is_large}
        start = repo.find(branch) or repo.commits[repo.branches["main"]]
        return repo.commit(branch, "Upload", {**start.files, **blobs})

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """What a revision holds, but the Hub's own file."""
        commit = self.repos[name].find(revision)
        blobs = commit.files if commit else {}
        return {path: blob.content for path, blob in sorted(blobs.items()) if path != ".gitattributes"}

    def signal(self, name: str) -> threading.Event:
        with self.lock:
            return self.signals.setdefault(name, threading.Event())

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


Answer = tuple[int, Any, dict[str, str]]


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    body: bytes
    status = 0

    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *arguments: Any) -> None:
        return None

    def do_GET(self) -> None:
        self._handle()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _handle(self) -> None:
        fault = self.hub.take_fault(self.command, self.path)
        if fault and fault.cut_after_bytes is not None:
            self.rfile.read(min(fault.cut_after_bytes, int(self.headers.get("Content-Length", 0))))
            self._remember(0)
            self._cut()
            return
        self.body = self._read_body()
        try:
            if fault and fault.hold_until:
                self._hold(fault.hold_until)
            if fault and fault.status:
                raise Refusal(fault.status, fault.message)
            with self.hub.lock:
                answer = self._route()
            self._answer(*answer, only_bytes=fault.stop_after_bytes if fault else None)
        except Refusal as refusal:
            self._answer(refusal.status, {"error": str(refusal)}, refusal.headers)

    def _hold(self, signal: str) -> None:
        if not self.hub.signal(signal).wait(HOLD_TIMEOUT_S):
            raise Refusal(504, "never let go")

    def _cut(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: Any, headers: dict[str, str], *, only_bytes: int | None = None) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers = {"Content-Type": "application/json", **headers}
        self._remember(status)
        self.send_response(status)
        for name, value in {"X-Request-Id": "request-1", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:only_bytes])
        if only_bytes is not None:
            self._cut()

    def _remember(self, status: int) -> None:
        holder = self.hub.tokens.get(self._token() or "", ("a stranger", ""))[0] if self._token() else None
        self.hub.requests.append(Request(self.command, unquote(self.path), holder, status))

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    # Who may do what

    def _user(self) -> tuple[str | None, str]:
        token = self._token()
        if token is not None and token not in self.hub.tokens:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.hub.tokens[token] if token else (None, "")

    def _writer(self, owner: str) -> str:
        user, role = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if role != "write" or user != owner:
            raise Refusal(403, "You don't have the rights to write there")
        return user

    def _repo(self, name: str, *, write: bool = False) -> Repo:
        user, _ = self._user()
        repo = self.hub.repos.get(name)
        if repo is None or (repo.is_private and user != name.split("/")[0]):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write:
            self._writer(name.split("/")[0])
        return repo

    def _commit(self, name: str, revision: str) -> Commit:
        commit = self._repo(name).find(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # What can be asked

    def _route(self) -> Answer:
        parts = urlsplit(self.path)
        for method, pattern, answer in _ROUTES:
            found = re.fullmatch(pattern, parts.path)
            if found and self.command in method.split():
                named = {name: unquote(value) for name, value in found.groupdict().items() if value is not None}
                return answer(self, query=parse_qs(parts.query), **named)
        raise Refusal(404, f"No such page: {parts.path}")

    def _json(self) -> Any:
        return json.loads(self.body or b"{}")

    def signal(self, query: Any, name: str) -> Answer:
        self.hub.signal(name).set()
        return 200, {}, {}

    def whoami(self, query: Any) -> Answer:
        user, role = self._user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        return 200, {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": role}}}, {}

    def create_repo(self, query: Any) -> Answer:
        asked = self._json()
        owner = asked.get("organization") or self._user()[0] or ""
        self._writer(owner)
        name = f"{owner}/{asked['name']}"
        url = {"url": f"{self.hub.url}/{name}", "name": name}
        if name in self.hub.repos:
            return 409, {"error": "You already created this model repo", **url}, {}
        self.hub.create(name, is_private=asked.get("visibility") == "private" or bool(asked.get("private")))
        return 200, url, {}

    def model_info(self, query: Any, repo: str, revision: str = "main") -> Answer:
        commit = self._commit(repo, revision)
        readme = commit.files.get("README.md")
        header = readme.content.decode().split("---")[1:2] if readme else []
        card = yaml.safe_load(header[0]) if header else {}
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return 200, {"id": repo, "sha": commit.sha, "siblings": siblings, "cardData": card}, {}

    def tree(self, query: Any, repo: str, revision: str) -> Answer:
        files = self._commit(repo, revision).files
        return 200, [blob.listing(path) for path, blob in sorted(files.items())], {}

    def paths_info(self, query: Any, repo: str, revision: str) -> Answer:
        files = self._commit(repo, revision).files
        asked = parse_qs(self.body.decode()).get("paths", [])
        return 200, [files[path].listing(path) for path in asked if path in files], {}

    def create_branch(self, query: Any, repo: str, name: str) -> Answer:
        found = self._repo(repo, write=True)
        if name in found.branches:
            raise Refusal(409, f"Reference already exists: {name}")
        found.branches[name] = self._commit(repo, self._json().get("startingPoint") or "main").sha
        return 200, {}, {}

    def create_tag(self, query: Any, repo: str, name: str) -> Answer:
        found = self._repo(repo, write=True)
        tag = self._json()["tag"]
        if tag in found.tags:
            raise Refusal(409, f"Tag reference exists already: {tag}")
        found.tags[tag] = self._commit(repo, name).sha
        return 200, {}, {}

    def validate_yaml(self, query: Any) -> Answer:
        return 200, {"errors": [], "warnings": []}, {}

    # Uploads

    def preupload(self, query: Any, repo: str, revision: str) -> Answer:
        self._repo(repo, write=True)
        known = self._commit(repo, revision).files
        files = []
        for asked in self._json()["files"]:
            is_large = asked["path"].endswith(LARGE_SUFFIXES)
            blob = known.get(asked["path"])
            oid = None if blob is None else blob.sha256 if blob.is_large else blob.oid
            mode = "lfs" if is_large else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return 200, {"files": files}, {}

    def batch(self, query: Any, repo: str) -> Answer:
        self._repo(repo, write=True)
        objects = [self._upload_of(repo, **asked) for asked in self._json()["objects"]]
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _upload_of(self, repo: str, oid: str, size: int) -> dict[str, Any]:
        if oid in self.hub.large_files:
            return {"oid": oid, "size": size}
        upload = {"href": f"{self.hub.storage_url}/storage/{oid}"}
        verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/verify"}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def put_file(self, query: Any, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "The content does not have the digest that was announced")
        self.hub.large_files[oid] = self.body
        return 200, b"", {}

    def verify(self, query: Any, repo: str) -> Answer:
        self._repo(repo, write=True)
        asked = self._json()
        if len(self.hub.large_files.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "The large file has not arrived")
        return 200, {}, {}

    def commit(self, query: Any, repo: str, revision: str) -> Answer:
        found = self._repo(repo, write=True)
        if revision not in found.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = dict(found.commits[found.branches[revision]].files)
        for line in lines[1:]:
            self._apply(line["key"], line["value"], files)
        made = found.commit(revision, lines[0]["value"]["summary"], files)
        return 200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{made.sha}", "commitOid": made.sha}, {}

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, Blob]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = Blob(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            if value["oid"] not in self.hub.large_files:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = Blob(self.hub.large_files[value["oid"]], True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        else:
            raise Refusal(400, f"Unknown operation: {key}")

    # Downloads

    def resolve(self, query: Any, repo: str, revision: str, path: str) -> Answer:
        commit = self._commit(repo, revision)
        origin = {"X-Repo-Commit": commit.sha}
        blob = commit.files.get(path)
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", origin)
        if not blob.is_large:
            return 200, blob.content, {**origin, "ETag": f'"{blob.oid}"'}
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
        return 302, b"", {**origin, **linked, "Location": f"{self.hub.storage_url}/storage/{blob.sha256}"}

    def get_file(self, query: Any, oid: str) -> Answer:
        if oid not in self.hub.large_files:
            raise Refusal(404, "No such object")
        content, headers = self.hub.large_files[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return 200, content, headers
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        return 206, content[start : end + 1], headers | {"Content-Range": f"bytes {start}-{end}/{len(content)}"}


_API = rf"/api/models/{_REPO}"
_OID = r"(?P<oid>[0-9a-f]{64})"
_ROUTES: tuple[tuple[str, str, Callable[..., Answer]], ...] = (
    ("POST", r"/_signal/(?P<name>\w+)", _Handler.signal),
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", r"/api/repos/create", _Handler.create_repo),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("GET", rf"{_API}(?:/revision/{_REVISION})?", _Handler.model_info),
    ("GET", rf"{_API}/tree/{_REVISION}", _Handler.tree),
    ("POST", rf"{_API}/paths-info/{_REVISION}", _Handler.paths_info),
    ("POST", rf"{_API}/branch/(?P<name>[^/]+)", _Handler.create_branch),
    ("POST", rf"{_API}/tag/(?P<name>[^/]+)", _Handler.create_tag),
    ("POST", rf"{_API}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", rf"{_API}/commit/{_REVISION}", _Handler.commit),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    ("POST", rf"/{_REPO}\.git/info/lfs/verify", _Handler.verify),
    ("PUT", rf"/storage/{_OID}", _Handler.put_file),
    ("GET HEAD", rf"/storage/{_OID}", _Handler.get_file),
    ("GET HEAD", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
)


def requests_to(hub: Hub, method: str, pattern: str) -> Iterator[Request]:
    """Requests that were made so far, whose path has the regular expression."""
    return (asked for asked in hub.requests if asked.method == method and re.search(pattern, asked.path))
