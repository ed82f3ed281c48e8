"""Jina embeddings v3 with widths of its own in every layer; travels inside compact exports as remote code."""

from transformers import JinaEmbeddingsV3Config

from .modeling_layerwise import RobertaMaskedLM, RotaryConfig, RotaryLayers, student_classes


class HomoJinaEmbeddingsV3Config(RotaryConfig, JinaEmbeddingsV3Config):
    """Configuration of a Jina embeddings v3 whose layers may differ in width; see [`RotaryConfig`]."""

    model_type = "homojina_embeddings_v3"


class JinaEmbeddingsV3Layers(RotaryLayers):
    """Jina embeddings v3's linear layers."""

    into_ffn = ("mlp.fc1",)
    out_of_ffn = "mlp.fc2"


globals().update(student_classes(HomoJinaEmbeddingsV3Config, JinaEmbeddingsV3Layers, RobertaMaskedLM))
