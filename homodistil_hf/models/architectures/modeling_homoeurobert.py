"""EuroBERT with widths of its own in every layer; travels inside compact exports as remote code."""

import torch
from transformers import EuroBertConfig

from .modeling_layerwise import GroupedConfig, LayerwiseMaskedLM, RotaryLayers, student_classes


class HomoEuroBertConfig(GroupedConfig, EuroBertConfig):
    """Configuration of a EuroBERT whose layers may differ in width; see [`GroupedConfig`]."""

    model_type = "homoeurobert"


class EuroBertMaskedLM(LayerwiseMaskedLM):
    """Masked-LM model whose head is its decoder alone."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Return the decoder's inputs, `(…, hidden_size)`: the encoder's last states themselves."""
        return states


globals().update(student_classes(HomoEuroBertConfig, RotaryLayers, EuroBertMaskedLM))
