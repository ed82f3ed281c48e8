"""llama.cpp, in a process of Node that runs llama_cpp.mjs: vectors of texts from a GGUF file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..plans.latency.timing import Pass
from .deployable import Deployable, Outputs, Row
from .node import Node, node_problem

PACKAGE = "node-llama-cpp"
SCRIPT = "llama_cpp.mjs"


def missing_reason() -> str | None:
    """What llama.cpp lacks here, and how to install it; None if nothing."""
    return node_problem(PACKAGE)


class LlamaCpp:
    """A GGUF file in llama.cpp, which tokenizes and pools; a text after the other.

    Args:
        node: the process.
        deployable: the model.
        file: the GGUF file.

    Raises:
        RuntimeProblem: llama.cpp can't load it.
    """

    def __init__(self, node: Node, deployable: Deployable, file: Path):
        self.node, self.deployable = node, deployable
        answer = node.ask("load", file=str(file.resolve()), num_threads=torch.get_num_threads())
        self.model = answer["model"]

    def results(self, rows: Sequence[Row]) -> list[Outputs]:
        """See [`Runtime.results`]; vectors of length 1."""
        file = self.node.scratch / "results"
        self.node.ask("results", model=self.model, texts=self._texts(rows), file=str(file))
        vectors = torch.from_numpy(np.fromfile(file, dtype=np.float32)).reshape(len(rows), -1)
        return [
            {self.deployable.output_names[-1]: vector} for vector in torch.nn.functional.normalize(vectors, dim=-1)
        ]

    def timed(self, rows: Sequence[Row]) -> Pass:
        """See [`Runtime.timed`]; texts are tokenized in the pass."""
        batch = self.node.ask("prepare", texts=self._texts(rows))["batch"]
        return lambda: self.node.ask("pass", model=self.model, batch=batch)

    def can_read(self, row: Row) -> bool:
        """Whether it takes a text: not one that is empty, or cut."""
        return bool(self.deployable.prepare(row[0])) and self.deployable.fits(row)

    def _texts(self, rows: Sequence[Row]) -> list[str]:
        return [self.deployable.prepare(first) for first, _ in rows]
