"""ModernBERT with widths of its own in every layer; travels inside compact exports as remote code."""

import torch

from .modeling_layerwise import LayerwiseMaskedLM, RotaryConfig, RotaryLayers, student_classes


class ModernBertLayers(RotaryLayers):
    """ModernBERT's linear layers, and the frequencies of its positions."""

    scales_rotation = True
    attention_path = "attn"
    into_attention = ("attn.Wqkv",)
    keys_and_values = ()
    out_of_attention = "attn.Wo"
    into_ffn = ("mlp.Wi",)
    num_fused = (3, 2)
    out_of_ffn = "mlp.Wo"
    queries = ()

    @property
    def layer_kinds(self) -> list[str]:
        """The type of each layer, as their frequencies differ."""
        return list(self.config.layer_types)


class ModernBertMaskedLM(LayerwiseMaskedLM):
    """Masked-LM model with ModernBERT's head."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        return self.head(states)


globals().update(student_classes(__name__, "ModernBert", RotaryConfig, ModernBertLayers, ModernBertMaskedLM))
