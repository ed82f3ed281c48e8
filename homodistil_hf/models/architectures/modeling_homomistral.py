"""Mistral as an encoder, with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import MistralConfig
from transformers.models.mistral.modeling_mistral import (
    MistralForSequenceClassification,
    MistralForTokenClassification,
    MistralModel,
    MistralRotaryEmbedding,
)

from .modeling_layerwise import GroupedConfig, RotaryLayers, kept_pairs


class HomoMistralConfig(GroupedConfig, MistralConfig):
    """Configuration of a Mistral whose layers may differ in width; see [`GroupedConfig`]."""

    model_type = "homomistral"


class MistralLayers(RotaryLayers):
    """Mistral's linear layers, which are those of [`RotaryLayers`], and the frequencies of its positions."""

    config_class = HomoMistralConfig
    rotary_class = kept_pairs(MistralRotaryEmbedding)


class HomoMistralModel(MistralLayers, MistralModel):
    """The encoder."""


class HomoMistralForSequenceClassification(MistralLayers, MistralForSequenceClassification):
    """Classification or regression of whole sequences, by their last token."""


class HomoMistralForTokenClassification(MistralLayers, MistralForTokenClassification):
    """Classification of every token."""
