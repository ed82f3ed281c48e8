"""The kind of run of sparse encoders: that of embedding models, whose texts and batches it has."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedConfig

from ..embedding.sparse import document_modules, load_sparse_model, masked_lm_config
from ..files.model_files import model_file
from . import embedding
from .kinds import RunInputs
from .masked_words import check_stream, set_length, summary_with
from .settings import RunConfig


def planned_config(teacher: str) -> PreTrainedConfig:
    """Read that of the masked-LM model of a sparse encoder; of a Router, of its documents."""
    label = f"teacher={teacher!r}"
    (first, _), _ = document_modules(teacher, label)
    file = model_file(teacher, Path(first, "config.json").as_posix())
    return masked_lm_config(file.parent if file else Path(teacher, first), label)


def check_inputs(settings: RunConfig) -> RunInputs:
    """Load the teacher."""
    check_stream(settings)
    teacher = load_sparse_model(settings.run.teacher, token=settings.training.hub_token)
    set_length(settings, teacher.encoder.config)
    return RunInputs(teacher.encoder.config, teacher.tokenizer, teacher)


KIND = replace(
    embedding.KIND,
    inputs=check_inputs,
    summary=partial(
        summary_with, partial(embedding.library_lines, "SparseEncoder", 'print(model.decode(model.encode(["…"])))')
    ),
    of_members=None,
    unused=(*embedding.KIND.unused, "teacher_vectors", "start", "similarity", "vocabulary"),
)
