"""The kind of run of multi-vector encoders: that of embedding models, whose texts and batches it has."""

from transformers import PreTrainedConfig

from ..embedding.multi_vector import load_multi_vector_model, token_modules
from . import embedding


def planned_config(teacher: str) -> PreTrainedConfig:
    """Read that of the encoder of a multi-vector encoder."""
    label = f"teacher={teacher!r}"
    modules, _ = token_modules(teacher, label)
    return embedding.config_in(teacher, modules[0][1], label)


KIND = embedding.kind_of_class(
    "MultiVectorEncoder", 'print(model.encode_query(["…"])[0].shape)', load_multi_vector_model
)
