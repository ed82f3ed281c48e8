"""What a command prints where it fails."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.cli import main


def error_of(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """Run a command that fails, and return its error message."""
    assert main(list(map(str, words))) == 2
    error = capsys.readouterr().err
    assert error.startswith("homodistil: error: ") or "\nhomodistil: error: " in error
    return error[error.index("homodistil: error: ") :]


@pytest.fixture
def assert_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Launch a distillation that fails: it trains and leaves nothing, and names the remedy.

    `message` is what the error says, with `.*` for any words and `|` between messages that are as good.
    """

    def launch(settings: dict[str, Any], message: str) -> None:
        monkeypatch.setattr(HomoDistilTrainer, "train", lambda *words: pytest.fail("training has started"))
        config = tmp_path / "config.json"
        config.write_text(json.dumps(settings | {"output_dir": str(tmp_path / "run"), "use_cpu": True}))
        assert main(["distill", str(config)]) == 2
        error = capsys.readouterr().err
        patterns = (".*".join(map(re.escape, part.split(".*"))) for part in message.split("|"))
        assert re.search("|".join(patterns), error, re.DOTALL), error
        assert "Traceback" not in error
        assert not (tmp_path / "run").exists()

    return launch
