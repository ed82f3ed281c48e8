"""Llama as an encoder, with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import LlamaConfig

from .modeling_layerwise import GroupedConfig, RotaryLayers, student_classes


class HomoLlamaConfig(GroupedConfig, LlamaConfig):
    """Configuration of a Llama whose layers may differ in width; see [`GroupedConfig`]."""

    model_type = "homollama"


globals().update(student_classes(HomoLlamaConfig, RotaryLayers))
