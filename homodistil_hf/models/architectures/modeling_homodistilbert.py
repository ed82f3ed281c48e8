"""DistilBERT with widths of its own in every layer; travels inside compact exports as remote code."""

from collections.abc import Mapping
from typing import ClassVar

import torch

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel, student_classes


class DistilBertWidths(LayerwiseConfig):
    """DistilBERT's names of widths."""

    width_names: ClassVar[Mapping[str, str]] = {"num_attention_heads": "n_heads", "intermediate_size": "hidden_dim"}


class DistilBertLayers(LayerwiseModel):
    """DistilBERT's linear layers."""

    layers_path = "transformer.layer"
    attention_path = "attention"
    into_attention = ("attention.q_lin", "attention.k_lin", "attention.v_lin")
    out_of_attention = "attention.out_lin"
    queries = ("attention.q_lin",)
    into_ffn = ("ffn.lin1",)
    out_of_ffn = "ffn.lin2"


class DistilBertMaskedLM(LayerwiseMaskedLM):
    """Masked-LM model with DistilBERT's head."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        return self.vocab_layer_norm(self.activation(self.vocab_transform(states)))


globals().update(student_classes(__name__, "DistilBert", DistilBertWidths, DistilBertLayers, DistilBertMaskedLM))
