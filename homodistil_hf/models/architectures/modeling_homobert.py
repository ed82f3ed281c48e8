"""BERT with widths of its own in every layer; travels inside compact exports as remote code.

Its classes are public names, so they are written out; `student_classes` makes those of other architectures.
"""

from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from .modeling_layerwise import BertMaskedLM, LayerwiseConfig, LayerwiseModel


class HomoBertConfig(LayerwiseConfig, BertConfig):
    """Configuration of a BERT whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homobert"


class BertLayers(LayerwiseModel):
    """BERT's linear layers, which are those of [`LayerwiseModel`]."""

    config_class = HomoBertConfig


class HomoBertModel(BertLayers, BertModel):
    """The encoder, with or without the pooler."""


class HomoBertForMaskedLM(BertLayers, BertMaskedLM, BertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""


class HomoBertForSequenceClassification(BertLayers, BertForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoBertForTokenClassification(BertLayers, BertForTokenClassification):
    """Classification of every token."""


class HomoBertForQuestionAnswering(BertLayers, BertForQuestionAnswering):
    """Start and end of an answer."""
