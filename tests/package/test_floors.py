"""The picture of the floors is that of the contract and of what each room says of itself."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("floors", ROOT / "docs" / "floors.py")
floors = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(floors)


def test_the_committed_picture_is_up_to_date(monkeypatch):
    """`make pages` writes it."""
    monkeypatch.chdir(ROOT)
    assert floors.drawn() == floors.PICTURE.read_text(encoding="utf-8")
