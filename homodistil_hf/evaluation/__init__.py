"""What a model is worth: discrepancy to a teacher, GLUE and SQuAD, and tables of many models side by side.

Public names are imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import compare, format_comparison
    from .discrepancy import evaluate_discrepancy
    from .discrepancy_settings import DiscrepancySettings
    from .glue import evaluate_glue
    from .metrics import load_metric
    from .settings import GlueSettings
    from .squad import evaluate_squad
    from .squad_settings import SquadSettings

_LAZY = {
    "DiscrepancySettings": "discrepancy_settings",
    "GlueSettings": "settings",
    "SquadSettings": "squad_settings",
    "compare": "comparison",
    "evaluate_discrepancy": "discrepancy",
    "evaluate_glue": "glue",
    "evaluate_squad": "squad",
    "format_comparison": "comparison",
    "load_metric": "metrics",
}

__all__ = [
    "DiscrepancySettings",
    "GlueSettings",
    "SquadSettings",
    "compare",
    "evaluate_discrepancy",
    "evaluate_glue",
    "evaluate_squad",
    "format_comparison",
    "load_metric",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
