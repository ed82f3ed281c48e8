"""Width pruning of encoders while they are distilled, as a `transformers.Trainer` extension.

Once the package is imported, transformers' Auto classes load its per-layer-width models. That and all the rest is
imported when it is first asked for, torch and transformers too.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .models import auto_classes as auto_classes
from .version import __version__

if TYPE_CHECKING:
    from .data.blocks import tokenize_to_blocks
    from .data.corpus import load_text
    from .data.masking import MaskedLMCollator
    from .export.export_folder import export_student
    from .methods.baselines.one_shot import OneShotTrainer
    from .methods.embedding.reranker import RerankerDistilTrainer
    from .methods.embedding.trainer import EmbeddingDistilTrainer
    from .methods.formats import verify_export
    from .methods.gradient_free.pruning import GradientFreeSettings, prune_gradient_free
    from .models.architectures.modeling_homobert import (
        HomoBertConfig,
        HomoBertForMaskedLM,
        HomoBertForQuestionAnswering,
        HomoBertForSequenceClassification,
        HomoBertForTokenClassification,
        HomoBertModel,
    )
    from .models.widths import LayerWidths, WidthPlan
    from .plans.resolve import PRESETS, resolve_plan
    from .trainer import HomoDistilTrainer
    from .training_args import HomoDistilTrainingArguments

_MODELING = "models.architectures.modeling_homobert"

_LAZY = {
    "BinarizationTrainer": "methods.binarization.trainer",
    "EmbeddingDistilTrainer": "methods.embedding.trainer",
    "RerankerDistilTrainer": "methods.embedding.reranker",
    "GradientFreeSettings": "methods.gradient_free.pruning",
    "HomoBertConfig": _MODELING,
    "HomoBertForMaskedLM": _MODELING,
    "HomoBertForQuestionAnswering": _MODELING,
    "HomoBertForSequenceClassification": _MODELING,
    "HomoBertForTokenClassification": _MODELING,
    "HomoBertModel": _MODELING,
    "HomoDistilTrainer": "trainer",
    "HomoDistilTrainingArguments": "training_args",
    "LayerWidths": "models.widths",
    "MaskedLMCollator": "data.masking",
    "OneShotTrainer": "methods.baselines.one_shot",
    "PRESETS": "plans.resolve",
    "WidthPlan": "models.widths",
    "export_packed": "methods.binarization.folder",
    "export_student": "export.export_folder",
    "load_text": "data.corpus",
    "multiply_bits": "methods.binarization.bit_products",
    "prune_gradient_free": "methods.gradient_free.pruning",
    "resolve_plan": "plans.resolve",
    "to_binary": "methods.binarization.binarizing",
    "tokenize_to_blocks": "data.blocks",
    "verify_export": "methods.formats",
}

__all__ = [
    "PRESETS",
    "BinarizationTrainer",
    "EmbeddingDistilTrainer",
    "GradientFreeSettings",
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
    "RerankerDistilTrainer",
    "WidthPlan",
    "__version__",
    "export_packed",
    "export_student",
    "load_text",
    "multiply_bits",
    "prune_gradient_free",
    "resolve_plan",
    "to_binary",
    "tokenize_to_blocks",
    "verify_export",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; its names are {', '.join(__all__)}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
