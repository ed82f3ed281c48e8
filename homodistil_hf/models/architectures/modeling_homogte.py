"""GTE with widths of its own in every layer; travels inside compact exports as remote code."""

import torch
from torch.nn import functional as F
from transformers import GteConfig
from transformers.models.gte.modeling_gte import (
    GteForMaskedLM,
    GteForSequenceClassification,
    GteForTokenClassification,
    GteModel,
    GteRotaryEmbedding,
)

from .modeling_layerwise import LayerwiseMaskedLM, RotaryConfig, RotaryLayers, kept_pairs


class HomoGteConfig(RotaryConfig, GteConfig):
    """Configuration of a GTE whose layers may differ in width; see [`RotaryConfig`]."""

    model_type = "homogte"


class GteLayers(RotaryLayers):
    """GTE's linear layers and the frequencies of its positions."""

    config_class = HomoGteConfig
    rotary_class = kept_pairs(GteRotaryEmbedding)


class HomoGteModel(GteLayers, GteModel):
    """The encoder, with or without the pooler."""


class HomoGteForMaskedLM(GteLayers, LayerwiseMaskedLM, GteForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        head = self.lm_head
        return head.layer_norm(F.gelu(head.dense(states)))


class HomoGteForSequenceClassification(GteLayers, GteForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoGteForTokenClassification(GteLayers, GteForTokenClassification):
    """Classification of every token."""
