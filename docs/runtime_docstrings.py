"""For the pages on Python: what classes have at run time that their files don't say, and links to public names.

A class of settings lists those that it declares or changes, from their fields. A trainer lists the arguments that its
parent classes document.
"""

import re
from dataclasses import fields
from functools import cache
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from typing import Any

import griffe

from homodistil_hf.files.settings import help_of

STUB = Path(import_module("homodistil_hf").__file__ or "").with_name("__init__.pyi")
NAME = re.compile(r"\[`([A-Za-z_]\w*)((?:\.\w+)*)`\]")
ARGS = re.compile(r"^Args:\n((?:    .*\n?|\n)*)", re.M)


class RuntimeDocstrings(griffe.Extension):
    """Completes the docstrings of classes, and links the names in all of them."""

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Write the arguments of a public class into its docstring."""
        if not cls.docstring or cls.name not in public_names():
            return
        found = getattr(import_module(cls.module.path), cls.name)
        text = cleandoc(cls.docstring.value)
        if cls.name.endswith(("Arguments", "Settings")):
            if base := public_base(found):
                first, _, rest = text.partition("\n\n")
                text = f"{first}\n\nIt has all of [`{base.__name__}`] as well.\n\n{rest}"
            text = with_arguments(text, own_settings(found))
        elif cls.name.endswith("Trainer"):
            text = with_arguments(text, inherited_arguments(found))
        cls.docstring.value = NAME.sub(linked, text)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Put the default of a setting in its place."""
        if isinstance(attr.value, griffe.ExprCall) and str(attr.value.function) == "setting":
            kind: Any = getattr(import_module(attr.module.path), str(attr.parent and attr.parent.name))
            attr.value = repr(kind.__dataclass_fields__[attr.name].default)

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Link public names, and take the brackets off all others."""
        if obj.docstring:
            obj.docstring.value = NAME.sub(linked, obj.docstring.value)


@cache
def public_names() -> dict[str, str]:
    """Public name → its path."""
    found = re.findall(r"^from \.(\S+) import \(?\s*(\w+) as", STUB.read_text(encoding="utf-8"), re.M)
    return {name: f"homodistil_hf.{module}.{name}" for module, name in found}


def linked(match: re.Match[str]) -> str:
    """A name in brackets as a link, where it is public."""
    name, rest = match.groups()
    path = public_names().get(name)
    return f"`{name}{rest}`" if path is None else f"[`{name}{rest}`][{path}]"


def public_base(kind: type) -> type | None:
    """The nearest parent class that has a place on the page."""
    return next((base for base in kind.__mro__[1:] if base.__name__ in public_names()), None)


def own_settings(kind: Any) -> dict[str, str]:
    """Name → help of each setting of the package that the public parent lacks, or has with another default or help."""
    base = public_base(kind)
    known = {} if base is None else base.__dataclass_fields__
    refused = getattr(kind, "no_part", {})
    return {
        entry.name: help_of(entry)
        for entry in fields(kind)
        if "limits" in entry.metadata and entry is not known.get(entry.name) and entry.name not in refused
    }


def arguments_of(text: str) -> dict[str, str]:
    """Name → lines of each argument in a docstring."""
    found = ARGS.search(text)
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", found[1] if found else "", re.M)
    return {name: " ".join(lines.split()) for name, lines in entries}


def inherited_arguments(kind: type) -> dict[str, str]:
    """Arguments of a class, then those that its parent classes document."""
    found: dict[str, str] = {}
    for base in kind.__mro__:
        if base.__module__.startswith("homodistil_hf."):
            found = {**arguments_of(cleandoc(vars(base).get("__doc__") or "")), **found}
    own = arguments_of(cleandoc(kind.__doc__ or ""))
    return {**own, **found}


def with_arguments(text: str, arguments: dict[str, str]) -> str:
    """A docstring with these arguments in place of its own, before what it raises."""
    lines = "\n".join(["Args:", *(f"    {name}: {words}" for name, words in arguments.items()), ""])
    if ARGS.search(text):
        return ARGS.sub(lambda _: f"{lines}\n", text)
    before, heading, after = text.partition("\nRaises:")
    return f"{before.rstrip()}\n\n{lines}{heading}{after}"
