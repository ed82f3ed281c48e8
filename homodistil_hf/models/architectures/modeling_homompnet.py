"""MPNet with widths of its own in every layer; travels inside compact exports as remote code."""

from typing import Any

from torch import nn

from .modeling_layerwise import LayerwiseModel, RobertaMaskedLM, student_classes


class MPNetLayers(LayerwiseModel):
    """MPNet's linear layers, and the table of distances that the heads of all layers share."""

    attention_path = "attention.attn"
    into_attention = ("attention.attn.q", "attention.attn.k", "attention.attn.v")
    out_of_attention = "attention.attn.o"
    queries = ("attention.attn.q",)
    scales_queries = True

    def build_shared(self, config: Any) -> None:
        """Give each head its column in the table of distances."""
        encoder: Any = self.base_model.encoder
        num_distances = encoder.relative_attention_bias.num_embeddings
        encoder.relative_attention_bias = nn.Embedding(num_distances, config.num_attention_heads)


globals().update(student_classes(__name__, "MPNet", layers=MPNetLayers, masked_lm=RobertaMaskedLM))
