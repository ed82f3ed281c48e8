"""ONNX graphs of a model, in float32, float16 and int8.

Which weights of an int8 graph stay float is chosen by what it costs in bytes and brings in likeness. Activations are
quantized while the graph runs, so no data are needed. Weights have a scale a channel, and 7 of 8 bits: processors
without instructions for int8 products add two of them in 16 bits, which overflow with 8.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ..models.onnx_graphs import export_onnx
from .deployable import Deployable, Fidelity

AXES = ("batch", "sequence")
"""Names of the two free dimensions of all inputs."""
_PRODUCT, _TABLE = "MatMul", "Gather"
_LEAST_DISTANCE = 1e-4
_WIDEST = 8
"""Outputs an input of the widest product of an encoder's layer; a wider one is a decoder to words."""


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


# int8


class Quantized(NamedTuple):
    """One way to quantize a graph.

    Args:
        kept_float: names of the parts that stay float.
        size_bytes: of the file.
        figures: comparison of its results with the model's own.
    """

    kept_float: tuple[str, ...]
    size_bytes: int
    figures: Fidelity

    @property
    def cost(self) -> float:
        """Bytes times distance: a part is kept float if the distance falls by more than the bytes grow."""
        return self.size_bytes * max(self.figures["distance"], _LEAST_DISTANCE)


def quantize(source: Path, path: Path, compare: Callable[[Path], Fidelity], *, least: float) -> list[Quantized]:
    """Write the int8 graph of least `cost` among those of fidelity `least` or more.

    First all products and tables become int8, then each part alone stays float. If none of these reaches the bar,
    parts are added up, the most helpful first.

    Args:
        source: a float32 graph.
        path: file to write; where no way reaches the bar, it holds the way of highest fidelity.
        compare: a graph's file → figures.
        least: the bar.

    Returns:
        All ways that were tried, the written one first.
    """
    import onnx

    graph = onnx.load(source)
    _unshare_transposed(graph)
    parts = _parts(graph)
    tried: list[Quantized] = []

    def attempt(kept: tuple[str, ...]) -> None:
        _write(graph, path, {name for part in kept for name in parts[part]})
        tried.append(Quantized(kept, path.stat().st_size, compare(path)))

    for kept in [(), *((part,) for part in parts)]:
        attempt(kept)
    # tried[1:] keep one part each: the one that leaves the least distance comes first
    helpful = [one.kept_float[0] for one in sorted(tried[1:], key=lambda one: one.figures["distance"])]
    for count in range(2, len(helpful) + 1):
        if all(one.figures["fidelity"] < least for one in tried):
            attempt(tuple(helpful[:count]))
    # a way that another one beats in size and fidelity is out, whatever its cost
    good = [
        one
        for one in tried
        if (fidelity := one.figures["fidelity"]) >= least
        and not any(by.size_bytes < one.size_bytes and by.figures["fidelity"] > fidelity for by in tried)
    ]
    chosen = min(good, key=lambda one: one.cost) if good else max(tried, key=lambda one: one.figures["fidelity"])
    # the file holds the last attempt, so the chosen one is written again
    _write(graph, path, {name for part in chosen.kept_float for name in parts[part]})
    return [chosen, *(one for one in tried if one is not chosen)]


def write_int8(source: Path, path: Path) -> None:
    """Write the graph all of whose products and tables are int8; arguments as [`quantize`]."""
    import onnx

    graph = onnx.load(source)
    _unshare_transposed(graph)
    _write(graph, path, set())


def _parts(graph: Any) -> dict[str, list[str]]:
    """Part that may stay float → names of its nodes."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    tables = [
        node.name for node in graph.graph.node if node.op_type == _TABLE and len(sizes.get(node.input[0], ())) == 2
    ]
    products = [node for node in graph.graph.node if node.op_type == _PRODUCT and node.input[1] in sizes]
    # (inputs, outputs): a decoder has a vocabulary of outputs
    decoders = [node.name for node in products if sizes[node.input[1]][-1] > _WIDEST * sizes[node.input[1]][0]]
    products = [node for node in products if node.name not in decoders]
    names = [node.name for node in products]
    quarter = max(1, len(names) // 4)
    narrowing = [node.name for node in products if sizes[node.input[1]][0] > sizes[node.input[1]][-1]]
    found = {
        "tables": tables,
        "decoder": decoders,
        "first quarter of the products": names[:quarter],
        "last quarter of the products": names[-quarter:],
        "products that narrow": narrowing,
    }
    return {part: nodes for part, nodes in found.items() if nodes}


def _unshare_transposed(graph: Any) -> None:
    """Store a table that is also a decoder a second time, transposed: else its product would stay float."""
    import onnx
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.graph.initializer}
    for node in [node for node in graph.graph.node if node.op_type == "Transpose" and node.input[0] in tensors]:
        table = numpy_helper.to_array(tensors[node.input[0]])
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), None)
        # the transposed table is a constant under the name that the node's output had
        graph.graph.initializer.append(numpy_helper.from_array(table.transpose(order).copy(), node.output[0]))
        graph.graph.node.remove(node)
    # a table that only such nodes have read goes
    used = {name for node in graph.graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.graph.initializer if tensor.name not in used]:
        graph.graph.initializer.remove(tensor)
    onnx.checker.check_model(graph)


def _write(graph: Any, path: Path, kept: set[str]) -> None:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    with quietly():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            copy,
            path,
            op_types_to_quantize=[_PRODUCT, _TABLE],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(kept),
            extra_options={"MatMulConstBOnly": True},
        )
