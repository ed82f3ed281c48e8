"""Makes the files of one model in a folder, each once, and runs them: the student's, and the teacher's beside it."""

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, cast

from ..files.strict_json import is_int, read_json_object, write_json
from ..plans.latency.timing import Pass
from .deployable import Deployable, Fidelity, Outputs, Row
from .graphs import write_graph, write_half
from .node import RuntimeProblem
from .quantization import Quantized, quantize, write_int8
from .runtimes import OnnxRuntime, write_openvino
from .targets import TARGETS

_TOKENIZER_CONFIG = "tokenizer_config.json"


class Running(Protocol):
    """A model in a runtime: see [`Runtime`]."""

    def results(self, rows: Sequence[Row]) -> list[Outputs]:
        """Results of rows."""

    def timed(self, rows: Sequence[Row]) -> Pass:
        """One pass over rows."""


class Workshop:
    """The files of one model for all runtimes, made on demand.

    Args:
        deployable: the model.
        folder: where to; transformers.js loads it.
        rows: what the files are compared on.
    """

    def __init__(self, deployable: Deployable, folder: Path, rows: Sequence[Row]):
        self.deployable, self.folder, self.rows = deployable, folder, rows
        self.ways: list[Quantized] = []
        folder.mkdir(parents=True)

    @cached_property
    def expected(self) -> list[Outputs]:
        """The model's own results of all rows."""
        return self.deployable.results(self.rows)

    def compare(self, running: Running, *, only: Callable[[Row], bool] = lambda row: True) -> Fidelity:
        """Compare a runtime's results with the model's own, on the rows that `only` lets through.

        Raises:
            RuntimeProblem: those are fewer than two.
        """
        kept = [index for index, row in enumerate(self.rows) if only(row)]
        if len(kept) < 2:
            raise RuntimeProblem(f"{len(kept)} of {len(self.rows)} texts fit in whole; expected at least 2 to compare")
        found = running.results([self.rows[index] for index in kept])
        return self.deployable.compare([self.expected[index] for index in kept], found)

    def path(self, target: str) -> Path:
        """Place of a target's file."""
        return self.folder / TARGETS[target].file

    def make(self, target: str, *, least: float = 0.0, kept_float: Sequence[str] | None = None) -> Path:
        """The file of a target; written, with those that it is made from, unless it is there already.

        Args:
            target: a name of `TARGETS`.
            least: bar of the search for an int8 graph.
            kept_float: parts that stay float in an int8 graph; None: they are searched.
        """
        path = self.path(target)
        if path.exists():
            return path
        path.parent.mkdir(exist_ok=True)
        if target == "onnx":
            write_graph(self.deployable, path)
            return path
        if target == "gguf":
            cast(Callable[[Path], None], self.deployable.gguf)(path)
            return path
        source = self.make("onnx")
        if target == "onnx-fp16":
            write_half(source, path)
        elif target == "openvino":
            write_openvino(source, path)
        elif kept_float is not None:
            write_int8(source, path, kept_float)
        else:
            self.ways = quantize(source, path, self._compare_graph, least=least)
        return path

    def _compare_graph(self, path: Path) -> Fidelity:
        return self.compare(OnnxRuntime(self.deployable, path))

    def add_tokenizer(self) -> Path:
        """Write configuration and tokenizer beside the graphs, where transformers.js reads them; return the folder."""
        if not (self.folder / _TOKENIZER_CONFIG).exists():
            self.deployable.config.save_pretrained(self.folder)
            self.deployable.tokenizer.save_pretrained(self.folder)
            limit_length(self.folder, self.deployable.max_length)
        return self.folder


def limit_length(folder: Path, max_length: int) -> None:
    """Let the tokenizer of a folder cut texts where the model does: transformers.js reads no other limit."""
    path = folder / _TOKENIZER_CONFIG
    if not path.is_file():
        return
    values = read_json_object(path, _TOKENIZER_CONFIG)
    length = values.get("model_max_length")
    if not is_int(length) or length > max_length:
        write_json(path, {**values, "model_max_length": max_length})


def size_of(path: Path) -> int:
    """Bytes of a file, with those of the weights that OpenVINO has in a file beside it."""
    beside = path.with_suffix(".bin")
    return os.path.getsize(path) + (os.path.getsize(beside) if beside.is_file() else 0)
