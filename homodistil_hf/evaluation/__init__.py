"""Measures a model: discrepancy to a teacher, GLUE and SQuAD, latency; tables of many models."""

from .evaluated_model import compare, format_comparison
from .fine_tuning import GlueSettings
from .held_out_text import DiscrepancySettings, evaluate_discrepancy
from .task_runs import SquadSettings, evaluate_glue, evaluate_squad, load_metric

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
