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
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    page, num_places = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)
    if num_places != 1:
        raise ValueError(f"the page has {num_places} places marked {name}; expected one")
    return page
