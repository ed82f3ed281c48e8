"""Jina embeddings v3 with widths of its own in every layer; travels inside compact exports as remote code."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch.nn import functional as F
from transformers import JinaEmbeddingsV3Config
from transformers.models.jina_embeddings_v3.modeling_jina_embeddings_v3 import (
    JinaEmbeddingsV3ForMaskedLM,
    JinaEmbeddingsV3ForQuestionAnswering,
    JinaEmbeddingsV3ForSequenceClassification,
    JinaEmbeddingsV3ForTokenClassification,
    JinaEmbeddingsV3Model,
    JinaEmbeddingsV3RotaryEmbedding,
)

from .modeling_layerwise import LayerwiseMaskedLM, RotaryConfig, RotaryLayers, kept_pairs


class HomoJinaEmbeddingsV3Config(RotaryConfig, JinaEmbeddingsV3Config):
    """Configuration of a Jina embeddings v3 whose layers may differ in width; see [`RotaryConfig`]."""

    model_type = "homojina_embeddings_v3"


class JinaEmbeddingsV3Layers(RotaryLayers):
    """Jina embeddings v3's linear layers and the frequencies of its positions."""

    config_class = HomoJinaEmbeddingsV3Config
    rotary_class = kept_pairs(JinaEmbeddingsV3RotaryEmbedding)
    into_ffn: ClassVar[Mapping[str, int]] = {"mlp.fc1": 1}
    out_of_ffn = "mlp.fc2"


class HomoJinaEmbeddingsV3Model(JinaEmbeddingsV3Layers, JinaEmbeddingsV3Model):
    """The encoder, with or without the pooler."""


class HomoJinaEmbeddingsV3ForMaskedLM(JinaEmbeddingsV3Layers, LayerwiseMaskedLM, JinaEmbeddingsV3ForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    unused_if_untied = "lm_head.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        head = self.lm_head
        return head.layer_norm(F.gelu(head.dense(states)))


class HomoJinaEmbeddingsV3ForSequenceClassification(JinaEmbeddingsV3Layers, JinaEmbeddingsV3ForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoJinaEmbeddingsV3ForTokenClassification(JinaEmbeddingsV3Layers, JinaEmbeddingsV3ForTokenClassification):
    """Classification of every token."""


class HomoJinaEmbeddingsV3ForQuestionAnswering(JinaEmbeddingsV3Layers, JinaEmbeddingsV3ForQuestionAnswering):
    """Start and end of an answer."""
