"""ELECTRA with widths of its own in every layer; travels inside compact exports as remote code."""

import torch
from transformers import ElectraConfig, ElectraForPreTraining

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel, student_classes


class HomoElectraConfig(LayerwiseConfig, ElectraConfig):
    """Configuration of an ELECTRA whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoelectra"


class ElectraMaskedLM(LayerwiseMaskedLM):
    """The generator."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs, `(…, embedding_size)`."""
        return self.generator_predictions(states)


class HomoElectraForPreTraining(LayerwiseModel, ElectraForPreTraining):
    """The discriminator: one logit a token, above 0 for a token that was replaced."""

    config_class = HomoElectraConfig


globals().update(student_classes(HomoElectraConfig, masked_lm=ElectraMaskedLM))
