"""For the pages on Python: classes are described by their docstrings at run time, which tell their settings too."""

from importlib import import_module
from inspect import cleandoc
from typing import Any

import griffe


class RuntimeDocstrings(griffe.Extension):
    """Reads the docstring of each class of settings from the imported class."""

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        """Replace the docstring that stands in the file."""
        if cls.docstring and cls.name.endswith(("Arguments", "Settings")):
            found = getattr(import_module(cls.module.path), cls.name)
            cls.docstring.value = cleandoc(found.__doc__)
