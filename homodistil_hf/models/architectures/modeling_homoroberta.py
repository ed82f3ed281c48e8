"""RoBERTa, XLM-RoBERTa and CamemBERT with widths of their own in every layer; travels inside compact exports."""

from transformers import CamembertConfig, RobertaConfig, XLMRobertaConfig

from .modeling_layerwise import LayerwiseConfig, RobertaMaskedLM, student_classes


class HomoRobertaConfig(LayerwiseConfig, RobertaConfig):
    """Configuration of a RoBERTa whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoroberta"


class HomoXLMRobertaConfig(LayerwiseConfig, XLMRobertaConfig):
    """Configuration of an XLM-RoBERTa whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoxlm-roberta"


class HomoCamembertConfig(LayerwiseConfig, CamembertConfig):
    """Configuration of a CamemBERT whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homocamembert"


for config_class in (HomoRobertaConfig, HomoXLMRobertaConfig, HomoCamembertConfig):
    globals().update(student_classes(config_class, masked_lm=RobertaMaskedLM))
