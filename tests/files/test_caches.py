from pathlib import Path

import pytest
from commands import error_of
from small_disk import room_for, small_disk
from tiny_files import own_cache, write_config, write_text

from homodistil_hf.files.caches import cache_folder, cache_size, clear_cache
from homodistil_hf.files.hub_errors import HubError, hub_errors


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


@pytest.mark.parametrize("size_bytes", [4096, 350_000])  # full while reading, and while tokenizing
def test_a_full_cache_is_named_as_the_place_that_is_full(tmp_path, monkeypatch, capsys, size_bytes):
    config = write_config(tmp_path)
    write_text(tmp_path / "train.txt", num_documents=3000)
    with small_disk(tmp_path / "disk") as disk:
        own_cache(monkeypatch, disk)
        with room_for(disk, size_bytes):
            error = error_of(capsys, "distill", config)
        place = f"name another folder with HF_DATASETS_CACHE: '{disk}/homodistil_hf/datasets'"
        assert "No space left on device, " in error
        assert f" bytes are free there; make room there, or {place}" in error


def test_a_download_that_fills_the_disk_names_its_place():
    expected = "me/x can't be read: OSError: .*No space left on device, .* bytes are free there; make room there, or"
    with pytest.raises(HubError, match=expected), hub_errors("me/x can't be read"), open("/dev/full", "w") as file:
        file.write("x")


def test_a_cache_behind_a_link_is_cleared(tmp_path, monkeypatch):
    monkeypatch.setenv("HOMODISTIL_CACHE", str(tmp_path))
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "rows").write_bytes(b"12345")
    (cache_folder() / "datasets").parent.mkdir(parents=True, exist_ok=True)
    (cache_folder() / "datasets").symlink_to(disk)
    assert cache_size() == clear_cache() == 5
    assert cache_size() == 0
    assert disk.is_dir()
    (cache_folder() / "datasets" / "more").mkdir(parents=True)
