"""ERNIE with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import ErnieConfig

from .modeling_layerwise import BertMaskedLM, LayerwiseConfig, student_classes


class HomoErnieConfig(LayerwiseConfig, ErnieConfig):
    """Configuration of an ERNIE whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homoernie"


globals().update(student_classes(HomoErnieConfig, masked_lm=BertMaskedLM))
