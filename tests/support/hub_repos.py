"""Repositories of a Hub in memory: files, commits, branches and tags."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


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
