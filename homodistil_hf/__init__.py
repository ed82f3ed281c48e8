"""Width pruning of BERT-family encoders while they are distilled, as a `transformers.Trainer` extension.

Importing the package registers the per-layer-width classes with transformers' Auto classes; everything else is
imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import registration as registration
from .modeling import (
    HomoBertConfig,
    HomoBertForMaskedLM,
    HomoBertForQuestionAnswering,
    HomoBertForSequenceClassification,
    HomoBertForTokenClassification,
    HomoBertModel,
)
from .version import __version__

if TYPE_CHECKING:
    from .collator import MaskedLMCollator
    from .corpus import load_text
    from .data import tokenize_to_blocks
    from .export import export_student
    from .methods.baselines import OneShotTrainer
    from .plans import PRESETS, resolve_plan
    from .trainer import HomoDistilTrainer
    from .training_args import HomoDistilTrainingArguments
    from .verify import verify_export
    from .widths import LayerWidths, WidthPlan

_LAZY = {
    "HomoDistilTrainer": "trainer",
    "HomoDistilTrainingArguments": "training_args",
    "LayerWidths": "widths",
    "MaskedLMCollator": "collator",
    "OneShotTrainer": "methods.baselines",
    "PRESETS": "plans",
    "WidthPlan": "widths",
    "export_student": "export",
    "load_text": "corpus",
    "resolve_plan": "plans",
    "tokenize_to_blocks": "data",
    "verify_export": "verify",
}

__all__ = [
    "PRESETS",
    "HomoBertConfig",
    "HomoBertForMaskedLM",
    "HomoBertForQuestionAnswering",
    "HomoBertForSequenceClassification",
    "HomoBertForTokenClassification",
    "HomoBertModel",
    "HomoDistilTrainer",
    "HomoDistilTrainingArguments",
    "LayerWidths",
    "MaskedLMCollator",
    "OneShotTrainer",
    "WidthPlan",
    "__version__",
    "export_student",
    "load_text",
    "resolve_plan",
    "tokenize_to_blocks",
    "verify_export",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
