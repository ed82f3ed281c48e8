"""What a model is worth: discrepancy to a teacher, GLUE and SQuAD, and tables of many models side by side.

Public names are imported when they are first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .comparison import compare, format_comparison
    from .glue.evaluate import evaluate_glue
    from .held_out_settings import DiscrepancySettings
    from .held_out_text import evaluate_discrepancy
    from .metrics import load_metric
    from .settings import GlueSettings
    from .squad.evaluate import evaluate_squad
    from .squad.settings import SquadSettings

_LAZY = {
    "DiscrepancySettings": "held_out_settings",
    "GlueSettings": "settings",
    "SquadSettings": "squad.settings",
    "compare": "comparison",
    "evaluate_discrepancy": "held_out_text",
    "evaluate_glue": "glue.evaluate",
    "evaluate_squad": "squad.evaluate",
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
