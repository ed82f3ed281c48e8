"""Size and speed of embedding models side by side, and the cost of int8: torch, ONNX Runtime, ONNX Runtime with int8.

The record is of benchmarks/studies/embedding_speed.py at commit f5db6bb.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies.study import Study
from homodistil_hf.tables import markdown_table

FORMS = ("torch", "onnxruntime", "onnxruntime, int8")
BATCH_SIZES = (1, 32)


def speed_table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a model and form."""
    cells = [
        [name, form, f"{100 * one['stsb']:.1f}", f"{one['size_bytes'] / 1e6:.1f}"]
        + [f"{one[f'sentences_per_s, {size} at once']:,.0f}" for size in BATCH_SIZES]
        for name, found in models.items()
        for form, one in found.items()
        if form in FORMS
    ]
    header = ["model", "run by", "STS-B", "MB", *(f"sentences/s, {size} at once" for size in BATCH_SIZES)]
    return markdown_table(header, cells)


STUDY = Study(
    Path("docs/results/embedding_speed.json"),
    Path("docs/embeddings.md"),
    lambda record: {"speed": speed_table(record["models"])},
)
