"""GTE with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import GteConfig

from .modeling_layerwise import RobertaMaskedLM, RotaryConfig, RotaryLayers, student_classes


class HomoGteConfig(RotaryConfig, GteConfig):
    """Configuration of a GTE whose layers may differ in width; see [`RotaryConfig`]."""

    model_type = "homogte"


class GteMaskedLM(RobertaMaskedLM):
    """Masked-LM model whose only bias of words is the decoder's."""

    unused_if_untied = None


globals().update(student_classes(HomoGteConfig, RotaryLayers, GteMaskedLM))
