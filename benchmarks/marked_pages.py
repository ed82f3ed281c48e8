"""Pages that are written by hand but for their figures, which stand between two markers of a name."""

import re
from collections.abc import Mapping
from pathlib import Path


def fill_in(page: Path, texts: Mapping[str, str]) -> None:
    """Put each text between the markers of its name, `<!-- name -->` and `<!-- /name -->`."""
    page.write_text(filled_in(page, texts), encoding="utf-8")


def filled_in(page: Path, texts: Mapping[str, str]) -> str:
    """The content of a page with each text between the markers of its name."""
    content = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        content = filled(content, name, text)
    return content


def filled(page: str, name: str, text: str) -> str:
    """The page with a text between the markers of a name."""
    text = with_whole_spreads(text)
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    page, num_places = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)
    if num_places != 1:
        raise ValueError(f"the page has {num_places} places marked {name}; expected one")
    return page


def with_whole_spreads(page: str) -> str:
    """The page with spreads in tables, `0.232 ± 0.008 (3)`, that stay on one line of a narrow cell."""
    return re.sub(
        r"^\|.*$", lambda row: re.sub(r" ± (\S+)(?: (\(\d+\)))?", _unbroken, row[0]), page, flags=re.MULTILINE
    )


def _unbroken(spread: re.Match[str]) -> str:
    return spread[0].replace(" ", "\u00a0")
