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

    head_dim: int | None = None
    softmax_head_dim: int | None = None


class HomoRobertaModel(LayerwiseModel, RobertaModel):
    """The encoder, with or without the pooler."""

    config_class = HomoRobertaConfig


class HomoRobertaForMaskedLM(RobertaMaskedLM, RobertaForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    config_class = HomoRobertaConfig


class HomoRobertaForSequenceClassification(LayerwiseModel, RobertaForSequenceClassification):
    """Classification or regression of whole sequences."""

    config_class = HomoRobertaConfig


class HomoRobertaForTokenClassification(LayerwiseModel, RobertaForTokenClassification):
    """Classification of every token."""

    config_class = HomoRobertaConfig


class HomoRobertaForQuestionAnswering(LayerwiseModel, RobertaForQuestionAnswering):
    """Start and end of an answer."""

    config_class = HomoRobertaConfig


class HomoXLMRobertaConfig(LayerwiseConfig, XLMRobertaConfig):
    """Configuration of an XLM-RoBERTa whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoxlm-roberta"

    head_dim: int | None = None
    softmax_head_dim: int | None = None


class HomoXLMRobertaModel(LayerwiseModel, XLMRobertaModel):
    """The encoder, with or without the pooler."""

    config_class = HomoXLMRobertaConfig


class HomoXLMRobertaForMaskedLM(RobertaMaskedLM, XLMRobertaForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    config_class = HomoXLMRobertaConfig


class HomoXLMRobertaForSequenceClassification(LayerwiseModel, XLMRobertaForSequenceClassification):
    """Classification or regression of whole sequences."""

    config_class = HomoXLMRobertaConfig


class HomoXLMRobertaForTokenClassification(LayerwiseModel, XLMRobertaForTokenClassification):
    """Classification of every token."""

    config_class = HomoXLMRobertaConfig


class HomoXLMRobertaForQuestionAnswering(LayerwiseModel, XLMRobertaForQuestionAnswering):
    """Start and end of an answer."""

    config_class = HomoXLMRobertaConfig


class HomoCamembertConfig(LayerwiseConfig, CamembertConfig):
    """Configuration of a CamemBERT whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homocamembert"

    head_dim: int | None = None
    softmax_head_dim: int | None = None


class HomoCamembertModel(LayerwiseModel, CamembertModel):
    """The encoder, with or without the pooler."""

    config_class = HomoCamembertConfig


class HomoCamembertForMaskedLM(RobertaMaskedLM, CamembertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    config_class = HomoCamembertConfig


class HomoCamembertForSequenceClassification(LayerwiseModel, CamembertForSequenceClassification):
    """Classification or regression of whole sequences."""

    config_class = HomoCamembertConfig


class HomoCamembertForTokenClassification(LayerwiseModel, CamembertForTokenClassification):
    """Classification of every token."""

    config_class = HomoCamembertConfig


class HomoCamembertForQuestionAnswering(LayerwiseModel, CamembertForQuestionAnswering):
    """Start and end of an answer."""

    config_class = HomoCamembertConfig
