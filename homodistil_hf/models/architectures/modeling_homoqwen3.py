"""Qwen3 as an encoder, with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import Qwen3Config

from .modeling_layerwise import GroupedConfig, RotaryLayers, student_classes


class HomoQwen3Config(GroupedConfig, Qwen3Config):
    """Configuration of a Qwen3 whose layers may differ in width; see [`GroupedConfig`]."""

    model_type = "homoqwen3"
    head_dim: int = 128


class Qwen3Layers(RotaryLayers):
    """Qwen3's linear layers, and its norms of queries and keys."""

    head_norms = ("self_attn.q_norm", "self_attn.k_norm")
    queries = ("self_attn.q_norm",)


globals().update(student_classes(HomoQwen3Config, Qwen3Layers))
