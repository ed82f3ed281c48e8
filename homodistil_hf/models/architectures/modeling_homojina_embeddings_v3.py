"""Jina embeddings v3 with widths of its own in every layer; travels inside compact exports as remote code."""

from .modeling_layerwise import RobertaMaskedLM, RotaryConfig, RotaryLayers, student_classes


class JinaEmbeddingsV3Layers(RotaryLayers):
    """Jina embeddings v3's linear layers."""

    into_ffn = ("mlp.fc1",)
    out_of_ffn = "mlp.fc2"


globals().update(student_classes(__name__, "JinaEmbeddingsV3", RotaryConfig, JinaEmbeddingsV3Layers, RobertaMaskedLM))
