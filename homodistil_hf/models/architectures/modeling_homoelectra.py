"""ELECTRA with widths of its own in every layer; travels inside compact exports as remote code."""

import torch
from transformers import ElectraConfig
from transformers.models.electra.modeling_electra import (
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraModel,
)

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel


class HomoElectraConfig(LayerwiseConfig, ElectraConfig):
    """Configuration of an ELECTRA whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoelectra"


class ElectraLayers(LayerwiseModel):
    """ELECTRA's linear layers, which are those of [`LayerwiseModel`]."""

    config_class = HomoElectraConfig


class HomoElectraModel(ElectraLayers, ElectraModel):
    """The encoder."""


class HomoElectraForMaskedLM(ElectraLayers, LayerwiseMaskedLM, ElectraForMaskedLM):
    """The generator; its head can run at chosen positions only, and stop before its decoder."""

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs, `(…, embedding_size)`."""
        return self.generator_predictions(states)


class HomoElectraForPreTraining(ElectraLayers, ElectraForPreTraining):
    """The discriminator: one logit a token, above 0 for a token that was replaced."""


class HomoElectraForSequenceClassification(ElectraLayers, ElectraForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoElectraForTokenClassification(ElectraLayers, ElectraForTokenClassification):
    """Classification of every token."""


class HomoElectraForQuestionAnswering(ElectraLayers, ElectraForQuestionAnswering):
    """Start and end of an answer."""
