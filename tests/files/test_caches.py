from pathlib import Path

import pytest
from tiny_files import own_cache

from homodistil_hf.files.caches import cache_folder, cached, clear_caches


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    own_cache(monkeypatch, tmp_path / "cache")


def test_a_cached_folder_is_built_once():
    built = []

    def build(folder):
        built.append(folder)
        (folder / "file").write_text("content")

    first, second = cached("latency", "key", build), cached("latency", "key", build)
    assert first == second == cache_folder() / "latency" / "key"
    assert (first / "file").read_text() == "content"
    assert len(built) == 1
    assert clear_caches() > 0
    assert not first.exists()


def test_an_interrupted_build_is_never_used():
    def interrupted(folder):
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("latency", "key", interrupted)
    assert list((cache_folder() / "latency").iterdir()) == []
    folder = cached("latency", "key", lambda folder: (folder / "whole").write_text(""))
    assert (folder / "whole").is_file()


def test_a_damaged_cache_is_built_anew():
    folder = cached("latency", "key", lambda folder: (folder / "file").write_text("right"))
    (folder / "file").write_text("wrong")
    assert (
        cached("latency", "key", lambda folder: (folder / "file").write_text("right")) / "file"
    ).read_text() == "right"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOMODISTIL_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own/homodistil_hf"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/homodistil_hf"),
        ({"HOME": "/home/somebody"}, "/home/somebody/.cache/homodistil_hf"),
    ],
)
def test_where_caches_are(variables, expected, monkeypatch):
    for name in ("HOMODISTIL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_a_cache_that_can_not_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOMODISTIL_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(OSError, match=r"cache='.*file/cache.*' can't be written \(.*\); name another folder"):
        cached("latency", "key", lambda folder: None)
