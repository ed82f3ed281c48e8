"""A trainer of any method of masked words on the tiny teacher."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import error_of
from methods_here import student_of

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.runs.kinds import trainer_named


@pytest.fixture
def assert_refused(tmp_path: Path, never_trains: None, capsys: pytest.CaptureFixture[str]) -> Any:
    """Launch a distillation that fails: it trains and leaves nothing, and names the remedy.

    `message` is what the error says, with `.*` for any words and `|` between messages that are as good.
    """

    def launch(settings: dict[str, Any], message: str) -> None:
        config = tmp_path / "config.json"
        config.write_text(json.dumps(settings | {"output_dir": str(tmp_path / "run"), "use_cpu": True}))
        error = error_of(capsys, "distill", config)
        patterns = (".*".join(map(re.escape, part.split(".*"))) for part in message.split("|"))
        assert re.search("|".join(patterns), error, re.DOTALL), error
        assert "Traceback" not in error
        assert not (tmp_path / "run").exists()

    return launch


@pytest.fixture
def trainer_of(make_trainer) -> Any:
    """A trainer of a method on the tiny teacher, with as many heads as it."""

    def make(method: str, **settings: Any) -> HomoDistilTrainer:
        defaults = {"student": student_of(method), "max_steps": 6}
        return make_trainer(trainer_class=trainer_named(method), **defaults | settings)

    return make
