"""EuroBERT with widths of its own in every layer; travels inside compact exports as remote code."""

import torch

from .modeling_layerwise import GroupedConfig, LayerwiseMaskedLM, RotaryLayers, student_classes


class EuroBertMaskedLM(LayerwiseMaskedLM):
    """Masked-LM model whose head is its decoder alone."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Return the decoder's inputs, `(…, hidden_size)`: the encoder's last states themselves."""
        return states


globals().update(student_classes(__name__, "EuroBert", GroupedConfig, RotaryLayers, EuroBertMaskedLM))
