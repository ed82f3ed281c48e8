"""What a command prints where it fails."""

from typing import Any

import pytest

from homodistil_hf.cli import main


def error_of(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """Run a command that fails, and return its error message."""
    assert main(list(map(str, words))) == 2
    error = capsys.readouterr().err
    assert error.startswith("homodistil: error: ") or "\nhomodistil: error: " in error
    return error[error.index("homodistil: error: ") :]
