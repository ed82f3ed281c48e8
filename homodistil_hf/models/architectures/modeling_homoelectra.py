"""ELECTRA with widths of its own in every layer; travels inside compact exports as remote code."""

import torch

from .modeling_layerwise import LayerwiseMaskedLM, student_classes


class ElectraMaskedLM(LayerwiseMaskedLM):
    """The generator."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs, `(…, embedding_size)`."""
        return self.generator_predictions(states)


_DISCRIMINATOR = {"ForPreTraining": "The discriminator: one logit a token, above 0 for a token that was replaced."}

globals().update(student_classes(__name__, "Electra", masked_lm=ElectraMaskedLM, others=_DISCRIMINATOR))
