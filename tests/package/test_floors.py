"""The picture of the floors is that of the contract and of what each room says of itself."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("floors", ROOT / "docs" / "floors.py")
floors = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(floors)


def test_neighbours_stand_on_one_floor():
    contract = "[importlinter:contract:floors]\nlayers =\n    top\n    left | right : third\n    ground\n"
    assert floors.floors_of(contract) == [["top"], ["left", "right", "third"], ["ground"]]


def test_the_committed_picture_is_up_to_date(monkeypatch, tmp_path):
    """`make pages` writes it."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(floors, "PICTURE", tmp_path / "floors.svg")
    floors.main()
    assert (tmp_path / "floors.svg").read_text() == (ROOT / "docs" / "floors.svg").read_text()
