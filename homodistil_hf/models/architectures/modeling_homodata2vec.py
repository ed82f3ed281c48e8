"""data2vec for text with widths of its own in every layer; travels inside compact exports as remote code."""

import torch
from torch.nn import functional as F
from transformers import Data2VecTextConfig
from transformers.models.data2vec.modeling_data2vec_text import (
    Data2VecTextForMaskedLM,
    Data2VecTextForQuestionAnswering,
    Data2VecTextForSequenceClassification,
    Data2VecTextForTokenClassification,
    Data2VecTextModel,
)

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel


class HomoData2VecTextConfig(LayerwiseConfig, Data2VecTextConfig):
    """Configuration of a data2vec for text whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homodata2vec-text"


class Data2VecTextLayers(LayerwiseModel):
    """Its linear layers, which are those of [`LayerwiseModel`]."""

    config_class = HomoData2VecTextConfig


class HomoData2VecTextModel(Data2VecTextLayers, Data2VecTextModel):
    """The encoder, with or without the pooler."""


class HomoData2VecTextForMaskedLM(Data2VecTextLayers, LayerwiseMaskedLM, Data2VecTextForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    unused_if_untied = "lm_head.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        head = self.lm_head
        return head.layer_norm(F.gelu(head.dense(states)))


class HomoData2VecTextForSequenceClassification(Data2VecTextLayers, Data2VecTextForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoData2VecTextForTokenClassification(Data2VecTextLayers, Data2VecTextForTokenClassification):
    """Classification of every token."""


class HomoData2VecTextForQuestionAnswering(Data2VecTextLayers, Data2VecTextForQuestionAnswering):
    """Start and end of an answer."""
