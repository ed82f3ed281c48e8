"""The page around a report: plain HTML and its style, light and dark, for screens of any width; texts are escaped."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from .charts import STYLE

_PAGE_STYLE = """
:root{color-scheme:light dark;--text:#1f2328;--soft:#57606a;--back:#fff;--box:#f6f8fa;--rule:#d0d7de;--good:#1a7f37}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--soft:#9198a1;--back:#0d1117;--box:#151b23;--rule:#30363d;
--good:#3fb950}}
*{box-sizing:border-box}body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:64rem;background:var(--back);
color:var(--text);font:16px/1.5 system-ui,sans-serif}h1{font-size:1.6rem;line-height:1.25;margin:0 0 .5rem;
overflow-wrap:anywhere}h2{font-size:1.2rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.2rem 0 .4rem}
p{margin:.5rem 0;max-width:48rem;overflow-wrap:anywhere}.note{color:var(--soft);font-size:.85rem}
.won{font-size:1.15rem;font-weight:600;color:var(--good)}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem}th,td{padding:.3rem .8rem .3rem 0;text-align:right;
border-bottom:1px solid var(--rule);font-variant-numeric:tabular-nums;white-space:nowrap}
th{font-weight:600;white-space:normal;vertical-align:bottom}
th:first-child,td:first-child{text-align:left;white-space:normal;min-width:7rem}
table.words td,table.words th{text-align:left;white-space:normal;overflow-wrap:anywhere}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(20rem,100%),1fr));gap:1.2rem 2rem}
.grid svg{width:100%}
pre{background:var(--box);padding:.8rem;border-radius:6px;overflow-x:auto;font-size:.85rem}
code{background:var(--box);padding:.1em .3em;border-radius:4px;font-size:.9em}pre code{padding:0}
@media(max-width:36rem){body{padding:1rem .8rem 3rem}td,th{white-space:normal!important;padding-right:.5rem}}
details{margin:1rem 0}summary{cursor:pointer}
"""
_CODE = re.compile(r"(`+) ?(.+?) ?\1")


def page(title: str, body: str) -> str:
    """A whole document of a title and of HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_PAGE_STYLE}{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}</body>\n</html>\n"
    )


def section(heading: str, body: str, *, level: int = 2) -> str:
    """HTML below a heading; nothing where there is no HTML."""
    return f"<h{level}>{escape(heading)}</h{level}>\n{body}\n" if body else ""


def paragraph(text: str, *, look: str = "") -> str:
    """A paragraph of text, whose words in backticks are shown as code."""
    # Cards escape what Markdown would take for HTML.
    words = _CODE.sub(r"<code>\2</code>", escape(text.replace("&lt;", "<"), quote=False))
    return f"<p{f' class={look}' if look else ''}>{words}</p>\n" if text else ""


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls inside itself; the first column is on the left, numbers are on the right."""
    is_of_words = len(header) == 2
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>\n" for row in rows)
    look = ' class="words"' if is_of_words else ""
    return f'<div class="wide"><table{look}>\n<tr>{head}</tr>\n{body}</table></div>\n'


def grid(pictures: Iterable[str]) -> str:
    """Pictures beside each other, as many as the screen has room for; nothing where there are none."""
    cells = "".join(f"<div>{picture}</div>\n" for picture in pictures)
    return f'<div class="grid">\n{cells}</div>' if cells else ""


def folded(summary: str, body: str) -> str:
    """HTML that a click unfolds."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def code(text: str) -> str:
    """Lines to be typed."""
    return f"<pre><code>{escape(text.strip())}</code></pre>\n" if text.strip() else ""
