"""RoBERTa, XLM-RoBERTa and CamemBERT with widths of their own in every layer; travels inside compact exports."""

import torch
from torch.nn import functional as F
from transformers import CamembertConfig, RobertaConfig, XLMRobertaConfig
from transformers.models.camembert.modeling_camembert import (
    CamembertForMaskedLM,
    CamembertForQuestionAnswering,
    CamembertForSequenceClassification,
    CamembertForTokenClassification,
    CamembertModel,
)
from transformers.models.roberta.modeling_roberta import (
    RobertaForMaskedLM,
    RobertaForQuestionAnswering,
    RobertaForSequenceClassification,
    RobertaForTokenClassification,
    RobertaModel,
)
from transformers.models.xlm_roberta.modeling_xlm_roberta import (
    XLMRobertaForMaskedLM,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
)

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel


class RobertaMaskedLM(LayerwiseMaskedLM):
    """What the masked-LM models of all three have before their stock class."""

    unused_if_untied = "lm_head.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        head = self.lm_head
        return head.layer_norm(F.gelu(head.dense(states)))


class HomoRobertaConfig(LayerwiseConfig, RobertaConfig):
    """Configuration of a RoBERTa whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoroberta"


class RobertaLayers(LayerwiseModel):
    """Its linear layers, which are those of [`LayerwiseModel`]."""

    config_class = HomoRobertaConfig


class HomoRobertaModel(RobertaLayers, RobertaModel):
    """The encoder, with or without the pooler."""


class HomoRobertaForMaskedLM(RobertaLayers, RobertaMaskedLM, RobertaForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""


class HomoRobertaForSequenceClassification(RobertaLayers, RobertaForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoRobertaForTokenClassification(RobertaLayers, RobertaForTokenClassification):
    """Classification of every token."""


class HomoRobertaForQuestionAnswering(RobertaLayers, RobertaForQuestionAnswering):
    """Start and end of an answer."""


class HomoXLMRobertaConfig(LayerwiseConfig, XLMRobertaConfig):
    """Configuration of an XLM-RoBERTa whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoxlm-roberta"


class XLMRobertaLayers(LayerwiseModel):
    """Its linear layers, which are those of [`LayerwiseModel`]."""

    config_class = HomoXLMRobertaConfig


class HomoXLMRobertaModel(XLMRobertaLayers, XLMRobertaModel):
    """The encoder, with or without the pooler."""


class HomoXLMRobertaForMaskedLM(XLMRobertaLayers, RobertaMaskedLM, XLMRobertaForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""


class HomoXLMRobertaForSequenceClassification(XLMRobertaLayers, XLMRobertaForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoXLMRobertaForTokenClassification(XLMRobertaLayers, XLMRobertaForTokenClassification):
    """Classification of every token."""


class HomoXLMRobertaForQuestionAnswering(XLMRobertaLayers, XLMRobertaForQuestionAnswering):
    """Start and end of an answer."""


class HomoCamembertConfig(LayerwiseConfig, CamembertConfig):
    """Configuration of a CamemBERT whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homocamembert"


class CamembertLayers(LayerwiseModel):
    """Its linear layers, which are those of [`LayerwiseModel`]."""

    config_class = HomoCamembertConfig


class HomoCamembertModel(CamembertLayers, CamembertModel):
    """The encoder, with or without the pooler."""


class HomoCamembertForMaskedLM(CamembertLayers, RobertaMaskedLM, CamembertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""


class HomoCamembertForSequenceClassification(CamembertLayers, CamembertForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoCamembertForTokenClassification(CamembertLayers, CamembertForTokenClassification):
    """Classification of every token."""


class HomoCamembertForQuestionAnswering(CamembertLayers, CamembertForQuestionAnswering):
    """Start and end of an answer."""
