"""Nomic BERT with widths of its own in every layer; travels inside compact exports as remote code."""

from typing import Any

import torch
from transformers import NomicBertConfig
from transformers.models.nomic_bert.modeling_nomic_bert import (
    NomicBertForMaskedLM,
    NomicBertForSequenceClassification,
    NomicBertForTokenClassification,
    NomicBertModel,
    NomicBertRotaryEmbedding,
)

from .modeling_layerwise import LayerwiseMaskedLM, RotaryConfig, RotaryLayers, kept_pairs


class HomoNomicBertConfig(RotaryConfig, NomicBertConfig):
    """Configuration of a Nomic BERT whose layers may differ in width; see [`RotaryConfig`]."""

    model_type = "homonomic_bert"

    def __post_init__(self, **kwargs: Any) -> None:
        """Leave out what the stock class does: it derives a `head_dim`, of one number of heads for all layers."""
        super(NomicBertConfig, self).__post_init__(**kwargs)
        self.leave_stock_frequencies()


class NomicBertLayers(RotaryLayers):
    """Nomic BERT's linear layers and the frequencies of its positions."""

    config_class = HomoNomicBertConfig
    rotary_class = kept_pairs(NomicBertRotaryEmbedding)


class HomoNomicBertModel(NomicBertLayers, NomicBertModel):
    """The encoder, with or without the pooler."""


class HomoNomicBertForMaskedLM(NomicBertLayers, LayerwiseMaskedLM, NomicBertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    unused_if_untied = "cls.predictions.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        return self.cls.predictions.transform(states)


class HomoNomicBertForSequenceClassification(NomicBertLayers, NomicBertForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoNomicBertForTokenClassification(NomicBertLayers, NomicBertForTokenClassification):
    """Classification of every token."""
