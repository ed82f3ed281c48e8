"""Nomic BERT with widths of its own in every layer; travels inside compact exports as remote code."""

from typing import Any

from transformers import NomicBertConfig

from .modeling_layerwise import BertMaskedLM, RotaryConfig, RotaryLayers, student_classes


class NomicBertHeads(RotaryConfig):
    """Heads of any number and size in every layer."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Leave out what the stock class does: it derives a `head_dim`, of one number of heads for all layers."""
        super(NomicBertConfig, self).__post_init__(**kwargs)
        self.leave_stock_frequencies()


globals().update(student_classes(__name__, "NomicBert", NomicBertHeads, RotaryLayers, BertMaskedLM))
