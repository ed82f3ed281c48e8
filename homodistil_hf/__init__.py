"""Width pruning of encoders while they are distilled, as a `transformers.Trainer` extension.

`__init__.pyi` lists the public names. The first use of a name imports it, with torch and transformers. Once the
package is imported, transformers' Auto classes load its students (models/auto_classes.py).
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

from .models import auto_classes as auto_classes
from .version import __version__ as __version__


def _listed_names() -> dict[str, str]:
    """Public name → module, as `__init__.pyi` has them."""
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = (node for node in tree.body if isinstance(node, ast.ImportFrom))
    return {alias.name: f".{node.module}" for node in imports for alias in node.names}


_MODULES = _listed_names()
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name], __name__), name)


def __dir__() -> list[str]:
    return __all__
