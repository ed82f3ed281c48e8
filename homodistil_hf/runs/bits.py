"""The kind of run that binarizes a float model, of a task or of vectors; `methods/binarization/stages.py` trains."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..evaluation.evaluated_model import model_in
from ..files.run_names import MODEL_FOLDER
from ..methods.binarization.stages import BinarizationSettings, binarize_chain
from .kinds import Kind, method_of_model
from .settings import Log, RunConfig


def run(settings: RunConfig, log: Log) -> dict[str, Any]:
    """Binarize stage by stage, see [`binarize_chain`]; the kind of model is found by its folder."""
    place = model_in(settings.run.model)
    folder = settings.run.model if place is None else str(place.folder)
    kind = method_of_model(folder)
    if kind in ("sparse", "multi_vector"):
        raise ValueError(
            f"model={settings.run.model!r} has {kind.replace('_', ' ')} vectors, and bits are for models with one "
            "dense vector a text; name such an embedding model, or a classifier"
        )
    if kind == "embedding":
        from .bit_embeddings import embedding_inputs

        return binarize_chain(settings.run, log, partial(embedding_inputs, folder=folder))
    return binarize_chain(settings.run, log)


def summary(results: Mapping[str, Any], output_dir: str) -> str:
    """Describe the size and place of the model."""
    return f"{results['size_bytes']:,} bytes of weights: {output_dir}/{MODEL_FOLDER}"


KIND = Kind(run=run, summary=summary, arguments=BinarizationSettings)
