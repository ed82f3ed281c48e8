"""How the library that multiplies bits comes to be, and compilers that fail in all ways."""

import re
import shutil

import pytest
from rows import each

from homodistil_hf.methods.binarization.bit_products import compiled

REAL = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
pytestmark = [pytest.mark.skipif(REAL is None, reason="no C compiler here"), pytest.mark.slow]


@pytest.fixture(autouse=True)
def _not_compiled_yet():
    compiled.cache_clear()


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Lets CC name a script."""

    def write(script):
        path = tmp_path / "own-cc"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
        monkeypatch.setenv("CC", str(path))

    return write


WRITE = 'for word; do out="$word"; done\n'  # the last word is the library

FAILURES = {
    "writes nothing": ("exit 0", "bit_products.so: cannot open shared object file|image not found"),
    "fails without a word": ("exit 3", "non-zero exit status 3"),
    "says why": ("echo no licence; exit 1", "no licence"),
    "writes no library": (WRITE + 'echo hello > "$out"', "file too short|invalid ELF header"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_compiler_that_fails_is_told(name, compiler, monkeypatch, caplog):
    script, message = FAILURES[name]
    compiler(script)
    assert compiled() is None
    assert re.search(message, caplog.text)
    monkeypatch.delenv("CC")
    compiled.cache_clear()
    assert compiled() is not None


@each(
    ("command", "message"),
    [("gcc 'x", "CC=gcc 'x, .* No closing quotation"), ("/nowhere/cc", "No such file or directory: '/nowhere/cc'")],
)
def test_a_broken_command_line_is_told(command, message, monkeypatch, caplog):
    monkeypatch.setenv("CC", command)
    compiled.cache_clear()
    assert compiled() is None
    assert re.search(message, caplog.text)


def test_a_process_compiles_once():
    assert compiled() is compiled() is not None
