"""The table of architectures is what the architectures say."""

import importlib.util
import shutil
from pathlib import Path

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
    assert "channels of heads" in rows["`bert`"][2]
    assert "rotary pairs" in rows["`modernbert`"][2]
    assert "the same in all layers" in rows["`mpnet`"][2]
    assert "embedding channels" in rows["`electra`"][2]
    assert rows["`bert`"][4] == "–"
    assert "latency_ms" not in rows["`roberta`"][4]
