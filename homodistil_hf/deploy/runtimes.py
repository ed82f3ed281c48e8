"""Runtimes in this process: ONNX Runtime and OpenVINO on the CPU. transformers_js.py has the one in Node.

A runtime gives the results of rows, which are compared with the model's own, and passes to be timed.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..models.onnx_graphs import onnx_session
from ..plans.latency.timing import Pass
from .deployable import Deployable, Outputs, Row

BATCH_SIZE = 8
"""Rows of a padded batch, in comparisons."""


class Runtime(ABC):
    """A model in a runtime."""

    deployable: Deployable

    @abstractmethod
    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Outputs by name of inputs by name."""

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
        self.names = [entry.name for entry in self.session.get_outputs()]

    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See [`Runtime.run`]."""
        found = self.session.run(self.names, {name: tensor.numpy() for name, tensor in inputs.items()})
        return {name: torch.from_numpy(array) for name, array in zip(self.names, found, strict=True)}


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


def write_openvino(source: Path, file: Path) -> None:
    """Write an ONNX graph in OpenVINO's own form, weights in float16: `file`, and one with `.bin` beside it."""
    import openvino

    openvino.save_model(openvino.Core().read_model(source), file)
