"""The kind of run of sparse encoders: that of embedding models, whose texts and batches it has."""

from pathlib import Path

from transformers import PreTrainedConfig

from ..embedding.sparse import document_modules, load_sparse_model, masked_lm_config
from ..files.model_files import model_file
from . import embedding


def planned_config(teacher: str) -> PreTrainedConfig:
    """Read that of the masked-LM model of a sparse encoder; of a Router, of its documents."""
    label = f"teacher={teacher!r}"
    (first, _), _ = document_modules(teacher, label)
    file = model_file(teacher, Path(first, "config.json").as_posix())
    return masked_lm_config(file.parent if file else Path(teacher, first), label)


KIND = embedding.kind_of_class("SparseEncoder", 'print(model.decode(model.encode(["…"])))', load_sparse_model)
