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

    head_dim: int | None = None
    softmax_head_dim: int | None = None


class HomoElectraModel(LayerwiseModel, ElectraModel):
    """The encoder."""

    config_class = HomoElectraConfig


class HomoElectraForMaskedLM(LayerwiseMaskedLM, ElectraForMaskedLM):
    """The generator; its head can run at chosen positions only, and stop before its decoder."""

    config_class = HomoElectraConfig

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs, `(…, embedding_size)`."""
        return self.generator_predictions(states)


class HomoElectraForPreTraining(LayerwiseModel, ElectraForPreTraining):
    """The discriminator: one logit a token, above 0 for a token that was replaced."""

    config_class = HomoElectraConfig


class HomoElectraForSequenceClassification(LayerwiseModel, ElectraForSequenceClassification):
    """Classification or regression of whole sequences."""

    config_class = HomoElectraConfig


class HomoElectraForTokenClassification(LayerwiseModel, ElectraForTokenClassification):
    """Classification of every token."""

    config_class = HomoElectraConfig


class HomoElectraForQuestionAnswering(LayerwiseModel, ElectraForQuestionAnswering):
    """Start and end of an answer."""

    config_class = HomoElectraConfig
