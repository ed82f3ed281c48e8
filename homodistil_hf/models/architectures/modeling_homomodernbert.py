"""ModernBERT with widths of its own in every layer; travels inside compact exports as remote code.

Rotary positions have a frequency for each pair of a head's channels: channel c turns with c + d/2. Heads can be
smaller where all layers of a type keep the same pairs, whose frequencies stay what they were.
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
    ModernBertRotaryEmbedding,
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
    """Configuration of a ModernBERT whose layers may differ in heads and FFN size; see [`LayerwiseConfig`].

    Args:
        rotary_pairs (`dict[str, list[int]]`, *optional*):
            Type of layer → the pairs of channels that its heads keep of the teacher's, rising. Default: all.
    """

    model_type = "homomodernbert"

    head_dim: int | None = None
    softmax_head_dim: int | None = None
    rotary_pairs: dict[str, list[int]] | None = None


class RotaryPairs(ModernBertRotaryEmbedding):
    """Frequencies of the pairs that are left."""

    @staticmethod
    def compute_default_rope_parameters(
        config: Any, device: torch.device | None = None, layer_type: str | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, float]:
        """`(pairs,)` float32, and what queries and keys are multiplied by: (d'/d)^¼ each.

        The stock class divides scores by √d', as d' = `head_dim`; with both factors it is √d, as in the teacher.
        """
        frequencies, factor = ModernBertRotaryEmbedding.compute_default_rope_parameters(config, device, layer_type)
        if not (kept := (config.rotary_pairs or {}).get(layer_type)):
            return frequencies, factor
        return frequencies[kept], factor * (len(kept) / len(frequencies)) ** 0.25


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
        self.set_shared_widths()

    def set_shared_widths(self) -> None:
        """Take the frequencies of positions from the size of the teacher's heads.

        Raises:
            ValueError: the configuration's pairs are not those of heads of its size.
        """
        _check_pairs(self.config)
        whole = copy.deepcopy(self.config)
        widths = {"num_attention_heads": 1, "head_dim": _whole_head_dim(whole), "intermediate_size": 1}
        write_widths(whole, whole.hidden_size, [widths])
        self.base_model.rotary_emb = RotaryPairs(whole).to(self.device)

    def note_units(self, units: Mapping[str, torch.Tensor]) -> None:
        """Say which pairs stay of those that were there."""
        pairs = dict(self.config.rotary_pairs or {})
        for kind in sorted(set(self.config.layer_types)):
            if (kept := units.get(f"query_key.{kind}")) is not None:
                before = pairs.get(kind, range(_whole_head_dim(self.config) // 2))
                pairs[kind] = [before[index] for index in kept.tolist()]
        self.config.rotary_pairs = pairs or None


def _check_pairs(config: Any) -> None:
    num_pairs, kept = _whole_head_dim(config) // 2, config.rotary_pairs or {}
    for index, kind in enumerate(config.layer_types):
        pairs, head_dim = kept.get(kind, range(num_pairs)), layer_head_dim(layer_config(config, index))
        if 2 * len(pairs) != head_dim or not set(pairs) <= set(range(num_pairs)):
            raise ValueError(
                f"rotary_pairs[{kind!r}]={pairs} doesn't fit head_dim={head_dim} in layer {index}; expected "
                f"{head_dim // 2} pairs below {num_pairs}"
            )


def _whole_head_dim(config: Any) -> int:
    """Channels of a head before any pair was dropped."""
    return config.softmax_head_dim or layer_head_dim(layer_config(config, 0))


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
