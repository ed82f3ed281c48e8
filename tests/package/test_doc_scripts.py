"""Python blocks of the pages import what there is, and call public names with arguments that they take."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

from rows import each

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
]


def imported_names(tree):
    """Name in a block → the object of this package that it imports."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "homodistil_hf":
            module = import_module(node.module)
            found |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    return found


def bind_calls(block):
    tree = ast.parse(block)
    names = imported_names(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id in names:
            keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
            inspect.signature(names[call.func.id]).bind(*call.args, **keywords)


@each("block", BLOCKS)
def test_imports_resolve_and_calls_bind(block):
    bind_calls(block)
