"""Draws docs/floors.svg: the floors of `.importlinter`, each room with the first line of its `__init__` or file.

python docs/floors.py
"""

import ast
import configparser
import re
import textwrap
from html import escape
from pathlib import Path

PACKAGE, CONTRACT, PICTURE = Path("homodistil_hf"), Path(".importlinter"), Path("docs/floors.svg")
WIDTH, MARGIN, GAP, LINE, CHARACTER = 960, 8, 12, 17, 7.2


def floors_of(contract: str) -> list[list[str]]:
    """Rooms of each floor, from the top."""
    sections = configparser.ConfigParser()
    sections.read_string(contract)
    lines = sections["importlinter:contract:floors"]["layers"].split("\n")
    return [re.split(r"\s*[|:]\s*", line.strip()) for line in lines if line.strip()]


def first_line(room: str) -> str:
    """The first paragraph of a room's docstring."""
    file = next(path for path in (PACKAGE / room / "__init__.py", PACKAGE / f"{room}.py") if path.is_file())
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].replace("`", "").split())


def picture(floors: list[list[str]], says: dict[str, str]) -> str:
    """One band a floor, neighbours side by side; imports point down."""
    shapes, top = [], MARGIN
    for rooms in floors:
        width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
        wrapped = {room: textwrap.wrap(says[room], int((width - 24) / CHARACTER)) for room in rooms}
        height = LINE * (1 + max(map(len, wrapped.values()))) + 14
        for number, room in enumerate(rooms):
            left = MARGIN + number * (width + GAP)
            shapes.append(
                f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{height}" rx="6" fill="#eef2f7" '
                'stroke="#9fb3c8"/>'
            )
            for row, text in enumerate([room, *wrapped[room]]):
                style = 'font-weight="bold" fill="#102a43"' if row == 0 else 'fill="#334e68"'
                shapes.append(
                    f'<text x="{left + 12:.0f}" y="{top + LINE * (row + 1) + 2}" {style}>{escape(text)}</text>'
                )
        top += height + GAP
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    font = 'font-family="Helvetica, Arial, sans-serif" font-size="13"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {font}>', *shapes, "</svg>", ""])


def drawn() -> str:
    """The picture of the contract."""
    floors = floors_of(CONTRACT.read_text(encoding="utf-8"))
    return picture(floors, {room: first_line(room) for rooms in floors for room in rooms})


if __name__ == "__main__":
    PICTURE.write_text(drawn(), encoding="utf-8")
