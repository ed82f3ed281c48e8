"""ERNIE with widths of its own in every layer; travels inside compact exports as remote code."""

import torch
from transformers import ErnieConfig
from transformers.models.ernie.modeling_ernie import (
    ErnieForMaskedLM,
    ErnieForQuestionAnswering,
    ErnieForSequenceClassification,
    ErnieForTokenClassification,
    ErnieModel,
)

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel


class HomoErnieConfig(LayerwiseConfig, ErnieConfig):
    """Configuration of an ERNIE whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoernie"


class ErnieLayers(LayerwiseModel):
    """ERNIE's linear layers, which are those of [`LayerwiseModel`]."""

    config_class = HomoErnieConfig


class HomoErnieModel(ErnieLayers, ErnieModel):
    """The encoder, with or without the pooler."""


class HomoErnieForMaskedLM(ErnieLayers, LayerwiseMaskedLM, ErnieForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    unused_if_untied = "cls.predictions.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        return self.cls.predictions.transform(states)


class HomoErnieForSequenceClassification(ErnieLayers, ErnieForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoErnieForTokenClassification(ErnieLayers, ErnieForTokenClassification):
    """Classification of every token."""


class HomoErnieForQuestionAnswering(ErnieLayers, ErnieForQuestionAnswering):
    """Start and end of an answer."""
