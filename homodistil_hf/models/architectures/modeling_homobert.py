"""BERT with widths of its own in every layer; travels inside compact exports as remote code."""

import torch
from transformers import BertConfig
from transformers.models.bert.modeling_bert import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel


class HomoBertConfig(LayerwiseConfig, BertConfig):
    """Configuration of a BERT whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homobert"


class BertLayers(LayerwiseModel):
    """BERT's linear layers, which are those of [`LayerwiseModel`]."""

    config_class = HomoBertConfig


class HomoBertModel(BertLayers, BertModel):
    """The encoder, with or without the pooler."""


class HomoBertForMaskedLM(BertLayers, LayerwiseMaskedLM, BertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    unused_if_untied = "cls.predictions.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        return self.cls.predictions.transform(states)


class HomoBertForSequenceClassification(BertLayers, BertForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoBertForTokenClassification(BertLayers, BertForTokenClassification):
    """Classification of every token."""


class HomoBertForQuestionAnswering(BertLayers, BertForQuestionAnswering):
    """Start and end of an answer."""
