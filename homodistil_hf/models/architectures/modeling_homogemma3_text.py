"""Gemma 3 as an encoder of text, with widths of its own in every layer; travels in compact exports as remote code."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .modeling_layerwise import GroupedConfig, RotaryLayers, student_classes


@dataclass(init=False, repr=False, eq=False)
class Gemma3TextScale(GroupedConfig):
    """The scale of Gemma 3's embeddings, besides widths; see [`GroupedConfig`].

    Args:
        scale_hidden_size (`int`, *optional*):
            Embeddings are multiplied by its root. It stays the teacher's hidden size while ``hidden_size`` shrinks.
            Default: ``hidden_size``.
    """

    scale_hidden_size: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Read settings; a stock configuration's hidden size is also that of its scale."""
        super().__post_init__(**kwargs)
        config: Any = self
        config.scale_hidden_size = config.scale_hidden_size or config.hidden_size


class Gemma3TextLayers(RotaryLayers):
    """Gemma's linear layers, its norms of queries and keys, and the scale of its embeddings."""

    head_norms = ("self_attn.q_norm", "self_attn.k_norm")
    queries = ()  # their scale is a setting of its own

    def set_layer_widths(self, layer: nn.Module, widths: Any) -> None:
        """Set the head count and size of a layer's attention; its softmax scale depends on neither."""
        super().set_layer_widths(layer, widths)
        layer.get_submodule(self.attention_path).scaling = widths.query_pre_attn_scalar**-0.5

    def set_shared_widths(self) -> None:
        """Compute the frequencies of positions, and set the scale of embeddings."""
        super().set_shared_widths()
        table = self.get_input_embeddings()
        table.scalar_embed_scale = self.config.scale_hidden_size**0.5
        table.embed_scale = nn.Buffer(torch.full_like(table.embed_scale, table.scalar_embed_scale), persistent=False)


globals().update(student_classes(__name__, "Gemma3Text", Gemma3TextScale, Gemma3TextLayers))
