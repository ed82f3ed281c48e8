"""Llama as an encoder, with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
    LlamaRotaryEmbedding,
)

from .modeling_layerwise import GroupedConfig, RotaryLayers, kept_pairs


class HomoLlamaConfig(GroupedConfig, LlamaConfig):
    """Configuration of a Llama whose layers may differ in width; see [`GroupedConfig`]."""

    model_type = "homollama"


class LlamaLayers(RotaryLayers):
    """Llama's linear layers, which are those of [`RotaryLayers`], and the frequencies of its positions."""

    config_class = HomoLlamaConfig
    rotary_class = kept_pairs(LlamaRotaryEmbedding)


class HomoLlamaModel(LlamaLayers, LlamaModel):
    """The encoder."""


class HomoLlamaForSequenceClassification(LlamaLayers, LlamaForSequenceClassification):
    """Classification or regression of whole sequences, by their last token."""


class HomoLlamaForTokenClassification(LlamaLayers, LlamaForTokenClassification):
    """Classification of every token."""
