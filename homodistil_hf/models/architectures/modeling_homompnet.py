"""MPNet with widths of its own in every layer; travels inside compact exports as remote code."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F
from transformers import MPNetConfig
from transformers.models.mpnet.modeling_mpnet import (
    MPNetForMaskedLM,
    MPNetForQuestionAnswering,
    MPNetForSequenceClassification,
    MPNetForTokenClassification,
    MPNetModel,
)

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel


class HomoMPNetConfig(LayerwiseConfig, MPNetConfig):
    """Configuration of an MPNet whose layers may differ in width but for their heads; see [`LayerwiseConfig`]."""

    model_type = "homompnet"


class MPNetLayers(LayerwiseModel):
    """MPNet's linear layers, and the table of distances that the heads of all layers share."""

    config_class = HomoMPNetConfig
    attention_path = "attention.attn"
    into_attention: ClassVar[Mapping[str, int]] = dict.fromkeys(
        ("attention.attn.q", "attention.attn.k", "attention.attn.v"), 1
    )
    out_of_attention = "attention.attn.o"
    queries = ("attention.attn.q",)
    scales_queries = True

    def build_shared(self, config: Any) -> None:
        """Give each head its column in the table of distances."""
        encoder: Any = self.base_model.encoder
        num_distances = encoder.relative_attention_bias.num_embeddings
        encoder.relative_attention_bias = nn.Embedding(num_distances, config.num_attention_heads)


class HomoMPNetModel(MPNetLayers, MPNetModel):
    """The encoder, with or without the pooler."""


class HomoMPNetForMaskedLM(MPNetLayers, LayerwiseMaskedLM, MPNetForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    unused_if_untied = "lm_head.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        head = self.lm_head
        return head.layer_norm(F.gelu(head.dense(states)))


class HomoMPNetForSequenceClassification(MPNetLayers, MPNetForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoMPNetForTokenClassification(MPNetLayers, MPNetForTokenClassification):
    """Classification of every token."""


class HomoMPNetForQuestionAnswering(MPNetLayers, MPNetForQuestionAnswering):
    """Start and end of an answer."""
