"""ModernBERT with widths of its own in every layer; travels inside compact exports as remote code.

Heads keep their size, as rotary positions have a frequency for each pair of their channels.
"""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import ModernBertConfig
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertForMaskedLM,
    ModernBertForQuestionAnswering,
    ModernBertForSequenceClassification,
    ModernBertForTokenClassification,
    ModernBertModel,
)

from .modeling_layerwise import (
    LayerwiseConfig,
    LayerwiseMaskedLM,
    LayerwiseModel,
    layer_config,
    layer_head_dim,
    write_widths,
)


class HomoModernBertConfig(LayerwiseConfig, ModernBertConfig):
    """Configuration of a ModernBERT whose layers may differ in heads and FFN size; see [`LayerwiseConfig`]."""

    model_type = "homomodernbert"

    head_dim: int | None = None
    softmax_head_dim: int | None = None


class ModernBertLayers(LayerwiseModel):
    """Where ModernBERT's linear layers are, and the frequencies of its positions."""

    layers_path = "layers"
    attention_path = "attn"
    into_attention: ClassVar[Mapping[str, int]] = {"attn.Wqkv": 3}
    out_of_attention = "attn.Wo"
    into_ffn: ClassVar[Mapping[str, int]] = {"mlp.Wi": 2}
    out_of_ffn = "mlp.Wo"
    queries = ()

    def _build_shared(self, config: Any) -> None:
        """Take the frequencies of positions from the size of the heads."""
        uniform, encoder = copy.deepcopy(config), self.base_model
        head_dim = layer_head_dim(layer_config(config, 0))
        widths = {"num_attention_heads": 1, "head_dim": head_dim, "intermediate_size": 1}
        write_widths(uniform, config.hidden_size, [widths])
        encoder.rotary_emb = type(encoder.rotary_emb)(uniform)


class HomoModernBertModel(ModernBertLayers, ModernBertModel):
    """The encoder."""

    config_class = HomoModernBertConfig


class HomoModernBertForMaskedLM(ModernBertLayers, LayerwiseMaskedLM, ModernBertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    config_class = HomoModernBertConfig

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """`(…, hidden_size)`, the encoder's last states → what the decoder makes logits of."""
        return self.head(states)


class HomoModernBertForSequenceClassification(ModernBertLayers, ModernBertForSequenceClassification):
    """Classification or regression of whole sequences."""

    config_class = HomoModernBertConfig


class HomoModernBertForTokenClassification(ModernBertLayers, ModernBertForTokenClassification):
    """Classification of every token."""

    config_class = HomoModernBertConfig


class HomoModernBertForQuestionAnswering(ModernBertLayers, ModernBertForQuestionAnswering):
    """Start and end of an answer."""

    config_class = HomoModernBertConfig
