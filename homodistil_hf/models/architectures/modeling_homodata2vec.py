"""data2vec for text with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import Data2VecTextConfig

from .modeling_layerwise import LayerwiseConfig, RobertaMaskedLM, student_classes


class HomoData2VecTextConfig(LayerwiseConfig, Data2VecTextConfig):
    """Configuration of a data2vec for text whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homodata2vec-text"


globals().update(student_classes(HomoData2VecTextConfig, masked_lm=RobertaMaskedLM))
