"""EuroBERT with widths of its own in every layer; travels inside compact exports as remote code."""

import torch
from transformers import EuroBertConfig
from transformers.models.eurobert.modeling_eurobert import (
    EuroBertForMaskedLM,
    EuroBertForSequenceClassification,
    EuroBertForTokenClassification,
    EuroBertModel,
    EuroBertRotaryEmbedding,
)

from .modeling_layerwise import GroupedConfig, LayerwiseMaskedLM, RotaryLayers, kept_pairs


class HomoEuroBertConfig(GroupedConfig, EuroBertConfig):
    """Configuration of a EuroBERT whose layers may differ in width; see [`GroupedConfig`]."""

    model_type = "homoeurobert"


class EuroBertLayers(RotaryLayers):
    """EuroBERT's linear layers, which are those of [`RotaryLayers`], and the frequencies of its positions."""

    config_class = HomoEuroBertConfig
    rotary_class = kept_pairs(EuroBertRotaryEmbedding)


class HomoEuroBertModel(EuroBertLayers, EuroBertModel):
    """The encoder."""


class HomoEuroBertForMaskedLM(EuroBertLayers, LayerwiseMaskedLM, EuroBertForMaskedLM):
    """Masked-LM model; its decoder can run at chosen positions only, or not at all."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Return the decoder's inputs, `(…, hidden_size)`: the encoder's last states themselves."""
        return states


class HomoEuroBertForSequenceClassification(EuroBertLayers, EuroBertForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoEuroBertForTokenClassification(EuroBertLayers, EuroBertForTokenClassification):
    """Classification of every token."""
