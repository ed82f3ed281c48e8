"""The kind of run that binarizes a fine-tuned model; `methods/binarization/stages.py` trains its stages."""

from collections.abc import Mapping
from typing import Any

from ..files.run_names import MODEL_FOLDER
from ..methods.binarization.stages import BinarizationSettings, binarize_chain
from .kinds import Kind
from .settings import Log, RunConfig


def run(settings: RunConfig, log: Log) -> dict[str, Any]:
    """Binarize stage by stage, see [`binarize_chain`]."""
    return binarize_chain(settings.run, log)


def summary(results: Mapping[str, Any], output_dir: str) -> str:
    """Describe the size and place of the model."""
    return f"{results['size_bytes']:,} bytes of weights: {output_dir}/{MODEL_FOLDER}"


KIND = Kind(run=run, summary=summary, arguments=BinarizationSettings)
