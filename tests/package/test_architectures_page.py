"""The table of architectures is what the architectures say."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
from rows import each

from homodistil_hf.models.loading import load_encoder_config

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("architectures_page", ROOT / "docs" / "architectures.py")
page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(page)


def test_the_page_is_up_to_date(tmp_path, monkeypatch):
    shutil.copy(ROOT / "docs" / "architectures.md", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "architectures.md")
    page.main()
    assert (tmp_path / "architectures.md").read_text() == (ROOT / "docs" / "architectures.md").read_text()


def test_a_row_says_what_is_special():
    rows = {cells[0]: cells for cells in map(page.row, page.ARCHITECTURES.values())}
    assert "channels of heads" in rows["`bert`"][1]
    assert "rotary pairs" in rows["`modernbert`"][1]
    assert "the same in all layers" in rows["`mpnet`"][1]
    assert "embedding channels" in rows["`electra`"][1]
    assert rows["`bert`"][3] == "–"


def test_checkpoints_are_of_architectures_that_there_are():
    text = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    table = text[text.index("| checkpoints |") : text.index("*Tested*")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:] if line]
    assert {state.split(",")[0] for _, _, state in rows} == {"tested", "same architecture", "refused by name"}
    named = {name for _, types, state in rows if state != "refused by name" for name in re.findall("`(.*?)`", types)}
    assert named <= set(page.ARCHITECTURES)


@each("model_type", ["albert", "nomic_bert", "gte", "eurobert", "t5", "gpt2"])
def test_other_architectures_are_refused_by_name(model_type, tmp_path):
    config = {"model_type": model_type, "architectures": [f"{model_type.title()}ForMaskedLM"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match=f"has model_type='{model_type}'; supported: bert, "):
        load_encoder_config(str(tmp_path))
