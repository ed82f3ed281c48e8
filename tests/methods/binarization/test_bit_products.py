"""How the library that multiplies bits comes to be: compilers that fail in all ways, and caches not to be trusted."""

import os
import re
import shutil
import subprocess
import time

import pytest
from tiny_files import own_cache

from homodistil_hf.files.caches import cache_folder, cached
from homodistil_hf.methods.binarization import bit_products
from homodistil_hf.methods.binarization.bit_products import compiled, entry_folder

REAL = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(REAL is None, reason="no C compiler here")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    own_cache(monkeypatch, tmp_path / "cache")
    bit_products._aside.cache_clear()


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Lets CC name a script."""

    def write(script, *, first_line="#!/bin/sh\n"):
        path = tmp_path / "own-cc"
        path.write_text(first_line + script)
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))

    return write


WRITE = 'for word; do out="$word"; done\n'  # the last word is the library

FAILURES = {
    "writes nothing": ("exit 0", "ended with status 0 and wrote nothing"),
    "writes nothing and fails": ("exit 3", "ended with status 3 and wrote nothing"),
    "says why": ("echo no licence; exit 1", "no licence"),
    "writes an empty file": (WRITE + ': > "$out"', "file too short"),
    "writes no library": (WRITE + 'echo hello > "$out"', "file too short|invalid ELF header"),
    "writes another library": (
        WRITE + f"echo 'int x;' | {REAL} -shared -fPIC -x c - -o \"$out\"",
        "lacks pack_values, multiply_bits",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_compiler_that_fails_is_told_and_nothing_is_kept(name, compiler, monkeypatch, caplog):
    script, message = FAILURES[name]
    compiler(script)
    assert compiled() is None
    assert re.search(message, caplog.text)
    assert not any((cache_folder() / "code").iterdir())
    monkeypatch.delenv("CC")
    assert compiled() is not None


@pytest.mark.parametrize(
    ("command", "message"),
    [("gcc 'x", "is no command line"), ("/nowhere/cc", "none of cc"), ("  ", "none of cc"), ('""', "none of cc")],
)
def test_a_broken_command_line_is_told(command, message, monkeypatch, caplog):
    monkeypatch.setenv("CC", command)
    assert compiled() is None
    assert message in caplog.text


def test_a_file_that_can_not_be_started_is_told(compiler, caplog):
    compiler("x", first_line="#!/nowhere/sh\n")
    assert compiled() is None
    assert "No such file" in caplog.text


def test_a_compiler_that_hangs_is_ended_with_its_children(compiler, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(bit_products, "_COMPILER_SECONDS", 0.5)
    compiler(f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    start = time.monotonic()
    assert compiled() is None
    assert time.monotonic() - start < 30
    assert "is not done after 0.5 seconds" in caplog.text
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if not _runs(child):
            break
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process):
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_compiler_that_hangs_does_not_keep_from_the_next(monkeypatch, compiler, tmp_path):
    compiler("sleep 1000")
    monkeypatch.delenv("CC")
    monkeypatch.setattr(bit_products, "_COMPILERS", (str(tmp_path / "own-cc"), REAL))
    monkeypatch.setattr(bit_products, "_COMPILER_SECONDS", 5)
    assert compiled() is not None


PLANTED = """
#include <stdio.h>
__attribute__((constructor)) static void start(void) { fclose(fopen("%s", "w")); }
void pack_values(void) {}
void multiply_bits(void) {}
"""


def plant(tmp_path):
    """Put a library whose constructor writes `tmp_path / "ran"` in the place of the one in the cache."""
    folder = entry_folder()
    (tmp_path / "planted.c").write_text(PLANTED % (tmp_path / "ran"))

    def build(aside):
        library = str(aside / "bit_products.so")
        subprocess.run([REAL, "-shared", "-fPIC", str(tmp_path / "planted.c"), "-o", library], check=True)

    assert cached("code", folder.name, build) == folder
    return folder


def test_a_library_of_ours_is_loaded(tmp_path):
    """So that the tests below would see it."""
    plant(tmp_path)
    assert compiled() is not None
    assert (tmp_path / "ran").exists()


def test_a_library_that_others_can_have_written_is_not_loaded(tmp_path, caplog):
    plant(tmp_path).chmod(0o777)
    assert compiled() is not None  # compiled aside
    assert not (tmp_path / "ran").exists()
    assert "others can write there" in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_library_of_another_user_is_not_loaded(tmp_path):
    os.chown(plant(tmp_path), 12345, 12345)
    assert compiled() is not None
    assert not (tmp_path / "ran").exists()


def test_what_is_compiled_where_nobody_else_writes_is_kept(monkeypatch):
    assert compiled() is not None
    monkeypatch.setattr(bit_products, "_compile", lambda folder: pytest.fail("compiled again"))
    assert compiled() is not None


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_an_entry_that_does_not_load_does_not_stand_in_the_way(content, caplog):
    """As an earlier compiler may have left it, its manifest in order."""
    folder = entry_folder()
    cached("code", folder.name, lambda aside: (aside / "bit_products.so").write_bytes(content))
    assert compiled() is not None
    assert not folder.exists()
    assert compiled() is not None
    assert (folder / "bit_products.so").stat().st_size > 1000


def test_where_the_cache_can_not_be_written_bits_are_multiplied_all_the_same(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOMODISTIL_CACHE", str(tmp_path / "file" / "cache"))
    assert compiled() is not None
    assert "can't be written" in caplog.text
