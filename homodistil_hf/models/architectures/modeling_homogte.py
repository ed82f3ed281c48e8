"""GTE with widths of its own in every layer; travels inside compact exports as remote code."""

from .modeling_layerwise import RobertaMaskedLM, RotaryConfig, RotaryLayers, student_classes


class GteMaskedLM(RobertaMaskedLM):
    """Masked-LM model whose only bias of words is the decoder's."""

    unused_if_untied = None


globals().update(student_classes(__name__, "Gte", RotaryConfig, RotaryLayers, GteMaskedLM))
