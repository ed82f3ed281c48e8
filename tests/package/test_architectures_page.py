"""The table of architectures is what the architectures say."""

import importlib.util
import json
from pathlib import Path

import pytest
from rows import each

from homodistil_hf.models.loading import load_encoder_config

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("architectures_page", ROOT / "docs" / "architectures.py")
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)


def test_the_page_is_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert page.page_text() == page.PAGE.read_text(encoding="utf-8")


@each("model_type", ["albert", "nomic_bert", "gte", "eurobert", "t5", "gpt2"])
def test_other_architectures_are_refused_by_name(model_type, tmp_path):
    config = {"model_type": model_type, "architectures": [f"{model_type.title()}ForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=f"has model_type='{model_type}'; supported: bert, "):
        load_encoder_config(str(tmp_path))
