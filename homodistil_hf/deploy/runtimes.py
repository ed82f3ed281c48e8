"""Files for runtimes, and the runtimes that run them.

Graphs are in float32, float16 and int8. Which weights of an int8 graph stay float is chosen by what it costs in bytes
and brings in likeness. Activations are quantized while the graph runs, so no data are needed. Weights have a scale a
channel, and 7 of 8 bits: processors without instructions for int8 products add two of them in 16 bits, which overflow
with 8.

ONNX Runtime and OpenVINO run on the CPU of this process, transformers.js in a process of Node. A runtime gives the
results of rows, which are compared with the model's own, and passes to be timed.
"""

import json
import logging
import math
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Any, NamedTuple, cast

import numpy as np
import torch

from ..models.onnx_graphs import export_onnx, onnx_session
from ..plans.latency import Pass
from .deployable import Deployable, Fidelity, Outputs, Row

AXES = ("batch", "sequence")
"""Names of the two free dimensions of all inputs."""
_PRODUCT, _TABLE = "MatMul", "Gather"
_WIDEST = 8
"""Outputs an input of the widest product of an encoder's layer; a wider one is a decoder to words."""
BATCH_SIZE = 8
"""Rows of a padded batch, in comparisons."""
PACKAGE = "@huggingface/transformers"
SCRIPT = "transformers_js.mjs"
DTYPES = {"onnx/model.onnx": "fp32", "onnx/model_fp16.onnx": "fp16", "onnx/model_quantized.onnx": "q8"}
"""Graph → the library's word for its number type."""


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


def write_openvino(source: Path, file: Path) -> None:
    """Write an ONNX graph in OpenVINO's own form, weights in float16: `file`, and one with `.bin` beside it."""
    import openvino

    openvino.save_model(openvino.Core().read_model(source), file)


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


def quantize(source: Path, path: Path, compare: Callable[[Path], Fidelity], *, least: float) -> list[Quantized]:
    """Write the int8 graph of least bytes times distance among those of fidelity `least` or more.

    All products and tables become int8, or all but one part. To keep tables, a decoder to words or the first products
    float cost more than it brought wherever it was tried, so none of these is a part.

    Args:
        source: a float32 graph.
        path: file to write; where no way reaches the bar, it holds the way of highest fidelity.
        compare: a graph's file → figures.
        least: the bar.

    Returns:
        All ways that were tried, the written one first.
    """
    graph = _unshared(source)
    parts = _parts(graph)
    tried = []
    for part, nodes in parts.items():
        _write(graph, path, nodes)
        tried.append(Quantized(part, path.stat().st_size, compare(path)))
    good = [one for one in tried if one.figures["fidelity"] >= least]
    chosen = max(tried, key=lambda one: one.figures["fidelity"])
    if good:
        # a part stays float if the distance falls by more than the bytes grow
        chosen = min(good, key=lambda one: one.size_bytes * one.figures.get("distance", math.inf))
    # the file holds the last attempt, so the chosen one is written again
    _write(graph, path, parts[chosen.kept_float])
    return [chosen, *(one for one in tried if one is not chosen)]


def write_int8(source: Path, path: Path) -> None:
    """Write the graph all of whose products and tables are int8; arguments as [`quantize`]."""
    _write(_unshared(source), path, [])


def _parts(graph: Any) -> dict[tuple[str, ...], list[str]]:
    """Parts that may stay float together → names of their nodes."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    products = [node for node in graph.graph.node if node.op_type == _PRODUCT and node.input[1] in sizes]
    shapes = {node.name: sizes[node.input[1]] for node in products}  # (inputs, outputs)
    # a decoder has a vocabulary of outputs
    names = [name for name, shape in shapes.items() if shape[-1] <= _WIDEST * shape[0]]
    found: dict[tuple[str, ...], list[str]] = {
        (): [],
        ("last quarter of the products",): names[-max(1, len(names) // 4) :],
        ("products that narrow",): [name for name in names if shapes[name][0] > shapes[name][-1]],
    }
    return {part: nodes for part, nodes in found.items() if nodes or not part}


def _unshared(source: Path) -> Any:
    """A graph in which a table that is also a decoder is stored twice: else the decoder's product would stay float."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(source)
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
    return graph


def _write(graph: Any, path: Path, kept: Sequence[str]) -> None:
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
            nodes_to_exclude=list(kept),
            extra_options={"MatMulConstBOnly": True},
        )


# What runs them


class Runtime:
    """A model in a runtime."""

    deployable: Deployable

    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs by name of inputs by name."""
        raise NotImplementedError

    def results(self, rows: Sequence[Row]) -> list[Outputs]:
        """Results of rows, run in padded batches."""
        found: list[Outputs] = []
        for start in range(0, len(rows), BATCH_SIZE):
            inputs = self.deployable.inputs(rows[start : start + BATCH_SIZE])
            found += self.deployable.read(self.run(inputs), inputs)
        return found

    def timed(self, rows: Sequence[Row]) -> Pass:
        """One pass over rows as one batch, tokenized before."""
        inputs = self.deployable.inputs(rows)
        return lambda: self.run(inputs)


class OnnxRuntime(Runtime):
    """A graph in ONNX Runtime."""

    def __init__(self, deployable: Deployable, file: Path):
        self.deployable, self.session = deployable, onnx_session(file)

    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See [`Runtime.run`]."""
        names = self.deployable.output_names
        found = self.session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(names, found, strict=True)}


class OpenVino(Runtime):
    """A model in OpenVINO's own form, or a graph, in OpenVINO; with the precision that it chooses by itself."""

    def __init__(self, deployable: Deployable, file: Path):
        import openvino

        self.deployable = deployable
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.model: Any = openvino.Core().compile_model(file, "CPU", settings)

    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See [`Runtime.run`]."""
        found = self.model({name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(found[name].copy()) for name in self.deployable.output_names}


def node_problem() -> str | None:
    """What transformers.js lacks here, and how to install it; None if nothing."""
    if shutil.which("node") is None:
        return "node is not installed: see nodejs.org"
    if modules_with(PACKAGE) is None:
        return f"{PACKAGE} not installed: npm install --ignore-scripts {PACKAGE}"
    return None


def modules_with(package: str) -> Path | None:
    """The `node_modules` that has a package: of the working folder or of one above it, as Node looks."""
    here = Path.cwd()
    found = (folder / "node_modules" for folder in (here, *here.parents))
    return next((modules.resolve() for modules in found if (modules / package / "package.json").is_file()), None)


class RuntimeProblem(Exception):
    """A runtime can't run a model; the message is its own."""


class Node:
    """A process of Node that runs transformers_js.mjs: JSON commands, JSON answers; use it in a `with` block."""

    def __enter__(self) -> "Node":
        self.folder = TemporaryDirectory()
        self.scratch = Path(self.folder.name)
        code = resources.files(__package__).joinpath(SCRIPT).read_text(encoding="utf-8")
        (self.scratch / SCRIPT).write_text(code, encoding="utf-8")
        # Node looks for packages beside the script.
        (self.scratch / "node_modules").symlink_to(cast(Path, modules_with(PACKAGE)), target_is_directory=True)
        self.errors = (self.scratch / "errors").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            ["node", str(self.scratch / SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            encoding="utf-8",
        )
        self.commands, self.answers = cast(IO[str], self.process.stdin), cast(IO[str], self.process.stdout)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        # the script ends with its input
        with suppress(BrokenPipeError):
            self.commands.close()
        self.answers.close()
        self.process.wait(timeout=60)
        self.errors.close()
        self.folder.cleanup()

    def ask(self, command: str, **values: Any) -> Mapping[str, Any]:
        """Send a command and return the answer.

        Raises:
            RuntimeProblem: the library raised an error, or the process has ended.
        """
        try:
            self.commands.write(json.dumps({"command": command, **values}) + "\n")
            self.commands.flush()
        except BrokenPipeError as error:
            raise RuntimeProblem(self._last_words()) from error
        for line in self.answers:
            if line.startswith("@"):  # the library prints hints of its own
                answer: dict[str, Any] = json.loads(line[1:])
                if "error" in answer:
                    raise RuntimeProblem(answer["error"])
                return answer
        raise RuntimeProblem(self._last_words())

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = [line for line in self.errors.read().splitlines() if "Error" in line]
        return lines[0] if lines else "the process of Node ended"


class TransformersJs(Runtime):
    """A folder with a graph in transformers.js.

    Args:
        node: the process.
        deployable: the model.
        folder: `config.json`, tokenizer and graphs.
        dtype: of the graph, a value of `DTYPES`.

    Raises:
        RuntimeProblem: the library can't load it.
    """

    def __init__(self, node: Node, deployable: Deployable, folder: Path, dtype: str):
        options = dict(deployable.javascript or {})
        self.node, self.deployable, self.names = node, deployable, options["outputs"]
        where = {"folder": str(folder.resolve()), "dtype": dtype, "num_threads": torch.get_num_threads()}
        answer = node.ask("load", options=options, **where)
        self.model, self.version = answer["model"], answer["version"]

    def results(self, rows: Sequence[Row]) -> list[Outputs]:
        """See [`Runtime.results`]; the library tokenizes."""
        file = Path(self.node.scratch, "results")
        shapes = self.node.ask("results", model=self.model, rows=self._texts(rows), file=str(file))["shapes"]
        values = torch.from_numpy(np.fromfile(file, dtype=np.float32))
        # the file holds all values one after the other: row by row, output by output
        parts = iter(values.split([int(np.prod(shape)) for row in shapes for shape in row]))
        return [
            {name: next(parts).reshape(shape) for name, shape in zip(self.names, row, strict=True)} for row in shapes
        ]

    def timed(self, rows: Sequence[Row]) -> Pass:
        """See [`Runtime.timed`]."""
        batch = self.node.ask("prepare", model=self.model, rows=self._texts(rows))["batch"]
        return lambda: self.node.ask("pass", model=self.model, batch=batch)

    def _texts(self, rows: Sequence[Row]) -> list[list[str | None]]:
        prepare, pairs = self.deployable.prepare, self.deployable.takes_pairs
        return [[prepare(first), prepare(second or "") if pairs else None] for first, second in rows]
