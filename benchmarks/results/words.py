"""The fixed words of the page and of the README, which no record decides: they stand in words.md."""

import re
from pathlib import Path
from typing import Any

_PARTS = re.split(r"<!-- (\w+) -->\n", Path(__file__).with_name("words.md").read_text(encoding="utf-8"))[1:]
_WORDS = dict(zip(_PARTS[::2], _PARTS[1::2], strict=True))


def words(name: str, **values: Any) -> str:
    """A part of the text in Markdown, with values in the places that have a name; it ends with one line break."""
    text = _WORDS[name].rstrip("\n") + "\n"
    return text.format(**values) if values else text
