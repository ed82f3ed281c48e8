"""What a model is worth: discrepancy to a teacher, GLUE and SQuAD, and tables of many models side by side.

Public names are imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .discrepancy import evaluate_discrepancy
    from .discrepancy_settings import DiscrepancySettings
    from .glue import evaluate_glue
    from .metrics import load_metric
    from .settings import GlueSettings

_LAZY = {
    "DiscrepancySettings": "discrepancy_settings",
    "GlueSettings": "settings",
    "evaluate_discrepancy": "discrepancy",
    "evaluate_glue": "glue",
    "load_metric": "metrics",
}

__all__ = ["DiscrepancySettings", "GlueSettings", "evaluate_discrepancy", "evaluate_glue", "load_metric"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
