"""ONNX graphs of a model, in float32 and float16; quantization.py has those of int8."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..models.onnx_graphs import export_onnx
from .deployable import Deployable

AXES = ("batch", "sequence")
"""Names of the two free dimensions of all inputs."""


def write_graph(deployable: Deployable, path: Path) -> None:
    """Write a float32 graph with the deployable's inputs and outputs, of any batch size and length.

    Args:
        deployable: the model.
        path: file to write, in an existing folder.

    Raises:
        ValueError: a package of the `[onnx]` extra is missing.
    """
    example = deployable.example()
    names = {"input_names": deployable.input_names, "output_names": deployable.output_names}
    export_onnx(deployable.module, example, path, **names, num_tokens=example[0].shape[1])
    import onnx

    graph = onnx.load(path)
    name_axes(graph)
    onnx.save(graph, path)


def name_axes(graph: Any) -> None:
    """Give the free dimensions of inputs and outputs the names in `AXES`, and drop shapes of what is in between."""
    # Quantizers and converters change types and would contradict the shapes that torch has inferred.
    del graph.graph.value_info[:]
    named: dict[str, str] = {}
    for value in graph.graph.input:
        named |= dict(zip((axis.dim_param for axis in value.type.tensor_type.shape.dim), AXES, strict=True))
    for value in (*graph.graph.input, *graph.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = named.get(axis.dim_param, axis.dim_param)


def signature(path: Path) -> dict[str, Any]:
    """What a graph takes and gives: `opset`, `inputs` and `outputs`, each name → shape in words and numbers."""
    import onnx

    graph = onnx.load(path, load_external_data=False)
    opset = next(entry.version for entry in graph.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": opset, "inputs": _shapes(graph.graph.input), "outputs": _shapes(graph.graph.output)}


def _shapes(values: Any) -> dict[str, list[str | int]]:
    axes = {value.name: value.type.tensor_type.shape.dim for value in values}
    return {name: [axis.dim_param or axis.dim_value for axis in found] for name, found in axes.items()}


def write_half(source: Path, path: Path) -> None:
    """Write a graph with float16 weights and products, float32 results; for GPUs.

    Args:
        source: a graph of [`write_graph`].
        path: file to write.
    """
    import onnx

    with quietly():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        graph = convert_float_to_float16(onnx.load(source), keep_io_types=True, disable_shape_infer=True)
    onnx.save(graph, path)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep ONNX Runtime's converters from printing advice, and from setting up the log of the whole process."""
    logger = logging.getLogger()
    level, handlers = logger.level, list(logger.handlers)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of small numbers that become 0 in float16
            yield
    finally:
        logger.setLevel(level)
        logger.handlers[:] = handlers
