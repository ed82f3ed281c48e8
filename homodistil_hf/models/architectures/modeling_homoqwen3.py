"""Qwen3 as an encoder, with widths of its own in every layer; travels inside compact exports as remote code."""

from .modeling_layerwise import GroupedConfig, RotaryLayers, student_classes


class Qwen3Layers(RotaryLayers):
    """Qwen3's linear layers, and its norms of queries and keys."""

    head_norms = ("self_attn.q_norm", "self_attn.k_norm")
    queries = ("self_attn.q_norm",)


globals().update(student_classes(__name__, "Qwen3", GroupedConfig, Qwen3Layers))
