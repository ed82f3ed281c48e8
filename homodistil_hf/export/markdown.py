"""Texts and values from folders, facts and settings as Markdown, for cards; tables.py lays tables out."""

import json
import re
from collections.abc import Iterable
from typing import Any

from ..files.strict_json import is_int
from ..tables import markdown_table


def one_line(text: str) -> str:
    """A text on one line, without characters that change how others are shown."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def plain_text(text: str) -> str:
    r"""A name from a folder, from facts or from settings as Markdown: on one line, without HTML, links and images.

    Example:
    ```python
    >>> print(plain_text("a\n# <b>b</b> [c](d)"))
    a # &lt;b>b&lt;/b> [c]\(d)

    ```
    """
    return one_line(text).replace("<", "&lt;").replace("](", "]\\(")


def code_span(text: str) -> str:
    """A name as code in Markdown, on one line, within as many backticks as it takes.

    Example:
    ```python
    >>> print(code_span("my-bert"), code_span("a`b"))
    `my-bert` `` a`b ``

    ```
    """
    name = one_line(text)
    longest = max(map(len, re.findall("`+", name)), default=0)
    return f"{'`' * (longest + 1)} {name} {'`' * (longest + 1)}" if longest else f"`{name}`"


def card_table(header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """Lay values out as a Markdown table; numbers are rounded to four digits, pipes in texts are escaped."""
    return "\n".join(markdown_table(list(map(cell, header)), (list(map(cell, row)) for row in rows)))


def cell(value: Any) -> str:
    """A value of a table: a number rounded, a text as [`plain_text`] with its pipes escaped."""
    if value is None:
        return "–"
    if is_int(value):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return plain_text(text).replace("|", "\\|")
