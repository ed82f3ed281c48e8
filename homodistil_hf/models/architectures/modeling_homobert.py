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

    head_dim: int | None = None
    softmax_head_dim: int | None = None


class HomoBertModel(LayerwiseModel, BertModel):
    """The encoder, with or without the pooler."""

    config_class = HomoBertConfig


class HomoBertForMaskedLM(LayerwiseMaskedLM, BertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    config_class = HomoBertConfig
    unused_if_untied = "cls.predictions.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        return self.cls.predictions.transform(states)


class HomoBertForSequenceClassification(LayerwiseModel, BertForSequenceClassification):
    """Classification or regression of whole sequences."""

    config_class = HomoBertConfig


class HomoBertForTokenClassification(LayerwiseModel, BertForTokenClassification):
    """Classification of every token."""

    config_class = HomoBertConfig


class HomoBertForQuestionAnswering(LayerwiseModel, BertForQuestionAnswering):
    """Start and end of an answer."""

    config_class = HomoBertConfig
