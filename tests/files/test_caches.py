import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from homodistil_hf.files.caches import cache_folder, cached, clear_caches


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
        ({"HOMODISTIL_CACHE": "~no_such_user_here"}, f"{Path.cwd()}/~no_such_user_here/homodistil_hf"),
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


# Several processes, and what killed ones leave

_READERS = """
import sys
from pathlib import Path
from homodistil_hf.files.caches import cached
def build(folder):
    folder.joinpath("file").write_text("right")
    folder.joinpath("other").write_text("right" * 1000)
for line in sys.stdin:
    folder = cached("latency", "key" + line.strip(), build)
    print(folder.joinpath("file").read_text() + folder.joinpath("other").read_text()[:5], flush=True)
"""


@pytest.mark.slow
def test_processes_that_meet_at_a_damaged_entry_all_get_a_whole_one():
    num_rounds, num_processes = 60, 4
    for number in range(num_rounds):
        folder = cached("latency", f"key{number}", lambda folder: (folder / "file").write_text("right"))
        (folder / "file").write_text("wrong")
    command = [sys.executable, "-c", _READERS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(num_processes)]
    for number in range(num_rounds):
        for process in processes:
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
        assert [process.stdout.readline() for process in processes] == ["rightright\n"] * num_processes
    for process in processes:
        assert process.communicate()[0] == ""
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted(f"key{n}" for n in range(num_rounds))


def test_what_killed_builds_have_left_is_swept():
    cached("latency", "key", lambda folder: None)
    kind = cache_folder() / "latency"
    for name, age_seconds in ((".key.abc", 0), (".other.abc", 0), (".third.abc", 2 * 24 * 3600)):
        (kind / name).mkdir()
        (kind / name / "half").write_text("")
        os.utime(kind / name, (time.time() - age_seconds,) * 2)
    (kind / "key" / "manifest.json").write_text("damaged")
    cached("latency", "key", lambda folder: None)
    assert sorted(path.name for path in kind.iterdir()) == [".other.abc", "key"]  # the other one may be in the making
