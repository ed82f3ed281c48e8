"""Qwen3 as an encoder, with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import (
    Qwen3ForSequenceClassification,
    Qwen3ForTokenClassification,
    Qwen3Model,
    Qwen3RotaryEmbedding,
)

from .modeling_layerwise import GroupedConfig, RotaryLayers, kept_pairs


class HomoQwen3Config(GroupedConfig, Qwen3Config):
    """Configuration of a Qwen3 whose layers may differ in width; see [`GroupedConfig`]."""

    model_type = "homoqwen3"
    head_dim: int = 128


class Qwen3Layers(RotaryLayers):
    """Qwen3's linear layers, its norms of queries and keys, and the frequencies of its positions."""

    config_class = HomoQwen3Config
    rotary_class = kept_pairs(Qwen3RotaryEmbedding)
    head_norms = ("self_attn.q_norm", "self_attn.k_norm")
    queries = ("self_attn.q_norm",)


class HomoQwen3Model(Qwen3Layers, Qwen3Model):
    """The encoder."""


class HomoQwen3ForSequenceClassification(Qwen3Layers, Qwen3ForSequenceClassification):
    """Classification or regression of whole sequences, by their last token."""


class HomoQwen3ForTokenClassification(Qwen3Layers, Qwen3ForTokenClassification):
    """Classification of every token."""
