"""Runtimes: ONNX Runtime and OpenVINO on the CPU of this process, transformers.js in a process of Node.

A runtime gives the results of rows, which are compared with the model's own, and passes to be timed.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
import torch

from ..models.onnx_graphs import onnx_session
from ..plans.latency import Pass
from .deployable import Deployable, Outputs, Row

BATCH_SIZE = 8
"""Rows of a padded batch, in comparisons."""
PACKAGE = "@huggingface/transformers"
SCRIPT = "transformers_js.mjs"
DTYPES = {"onnx/model.onnx": "fp32", "onnx/model_fp16.onnx": "fp16", "onnx/model_quantized.onnx": "q8"}
"""Graph → the library's word for its number type."""


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
