"""Mistral as an encoder, with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import MistralConfig

from .modeling_layerwise import GroupedConfig, RotaryLayers, student_classes


class HomoMistralConfig(GroupedConfig, MistralConfig):
    """Configuration of a Mistral whose layers may differ in width; see [`GroupedConfig`]."""

    model_type = "homomistral"


globals().update(student_classes(HomoMistralConfig, RotaryLayers))
