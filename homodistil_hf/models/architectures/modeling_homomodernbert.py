"""ModernBERT with widths of its own in every layer; travels inside compact exports as remote code.

Rotary positions have a frequency for each pair of a head's channels: channel c turns with c + d/2. Heads can be
smaller if all layers of a type keep the same pairs; the frequencies of these pairs stay.
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
            Type of layer → the teacher's pairs of channels that its heads keep, rising. Default: all.
    """

    model_type = "homomodernbert"
    rotary_pairs: dict[str, list[int]] | None = None


class RotaryPairs(ModernBertRotaryEmbedding):
    """Rotary embedding with the frequencies of the kept pairs."""

    @staticmethod
    def compute_default_rope_parameters(
        config: Any, device: torch.device | None = None, layer_type: str | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, float]:
        """Return the frequencies, `(pairs,)` float32, and the factor of queries and keys: (d'/d)^¼ each.

        The stock class divides scores by √d' with d' = `head_dim`; together with both factors, by the teacher's √d.
        """
        frequencies, factor = ModernBertRotaryEmbedding.compute_default_rope_parameters(config, device, layer_type)
        if not (kept := (config.rotary_pairs or {}).get(layer_type)):
            return frequencies, factor
        return frequencies[kept], factor * (len(kept) / len(frequencies)) ** 0.25


class ModernBertLayers(LayerwiseModel):
    """ModernBERT's linear layers, and the frequencies of its positions."""

    config_class = HomoModernBertConfig
    layers_path = "layers"
    attention_path = "attn"
    into_attention: ClassVar[Mapping[str, int]] = {"attn.Wqkv": 3}
    out_of_attention = "attn.Wo"
    into_ffn: ClassVar[Mapping[str, int]] = {"mlp.Wi": 2}
    out_of_ffn = "mlp.Wo"
    queries = ()

    def build_shared(self, config: Any) -> None:
        """Compute the frequencies of positions."""
        self.set_shared_widths()

    def set_shared_widths(self) -> None:
        """Compute the frequencies of positions for the size of the teacher's heads.

        Raises:
            ValueError: the configuration's pairs don't fit its head size.
        """
        num_pairs, kept = _whole_head_dim(self.config) // 2, self.config.rotary_pairs or {}
        for index, kind in enumerate(self.config.layer_types):
            pairs, head_dim = kept.get(kind, range(num_pairs)), layer_head_dim(layer_config(self.config, index))
            if 2 * len(pairs) != head_dim or not set(pairs) <= set(range(num_pairs)):
                raise ValueError(
                    f"rotary_pairs[{kind!r}]={pairs} doesn't fit head_dim={head_dim} in layer {index}; expected "
                    f"{head_dim // 2} pairs below {num_pairs}"
                )
        # frequencies depend on the head size: those of whole heads, of which RotaryPairs keeps some
        whole = copy.deepcopy(self.config)
        widths = {"num_attention_heads": 1, "head_dim": _whole_head_dim(whole), "intermediate_size": 1}
        write_widths(whole, whole.hidden_size, [widths])
        self.base_model.rotary_emb = RotaryPairs(whole).to(self.device)

    def note_units(self, units: Mapping[str, torch.Tensor]) -> None:
        """Note in the configuration which of its pairs stay."""
        pairs = dict(self.config.rotary_pairs or {})
        for kind in sorted(set(self.config.layer_types)):
            # kept counts among the present pairs, the configuration among the teacher's
            if (kept := units.get(f"query_key.{kind}")) is not None:
                before = pairs.get(kind, range(_whole_head_dim(self.config) // 2))
                pairs[kind] = [before[index] for index in kept.tolist()]
        self.config.rotary_pairs = pairs or None


def _whole_head_dim(config: Any) -> int:
    """Return the channels of a head before any pair was dropped."""
    return config.softmax_head_dim or layer_head_dim(layer_config(config, 0))


class HomoModernBertModel(ModernBertLayers, ModernBertModel):
    """The encoder."""


class HomoModernBertForMaskedLM(ModernBertLayers, LayerwiseMaskedLM, ModernBertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        return self.head(states)


class HomoModernBertForSequenceClassification(ModernBertLayers, ModernBertForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoModernBertForTokenClassification(ModernBertLayers, ModernBertForTokenClassification):
    """Classification of every token."""


class HomoModernBertForQuestionAnswering(ModernBertLayers, ModernBertForQuestionAnswering):
    """Start and end of an answer."""
