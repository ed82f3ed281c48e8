"""transformers.js, with its own tokenizer and pooling, in a process of Node that runs transformers_js.mjs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..plans.latency.timing import Pass
from .deployable import Deployable, Outputs, Row
from .node import Node, node_problem

PACKAGE = "@huggingface/transformers"
SCRIPT = "transformers_js.mjs"
DTYPES = {"onnx/model.onnx": "fp32", "onnx/model_fp16.onnx": "fp16", "onnx/model_quantized.onnx": "q8"}
"""Graph → the library's word for its number type."""


def missing_reason() -> str | None:
    """What transformers.js lacks here, and how to install it; None if nothing."""
    return node_problem(PACKAGE)


class TransformersJs:
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
        found: list[Outputs] = []
        start = 0
        for row in shapes:
            outputs: Outputs = {}
            for name, shape in zip(self.names, row, strict=True):
                size = int(np.prod(shape))
                outputs[name] = values[start : start + size].reshape(shape)
                start += size
            found.append(outputs)
        return found

    def timed(self, rows: Sequence[Row]) -> Pass:
        """See [`Runtime.timed`]."""
        batch = self.node.ask("prepare", model=self.model, rows=self._texts(rows))["batch"]
        return lambda: self.node.ask("pass", model=self.model, batch=batch)

    def _texts(self, rows: Sequence[Row]) -> list[list[str | None]]:
        prepare, pairs = self.deployable.prepare, self.deployable.takes_pairs
        return [[prepare(first), prepare(second or "") if pairs else None] for first, second in rows]
