"""transformers.js, with its own tokenizer and pooling, in a process of Node that runs transformers_js.mjs."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import numpy as np
import torch

from ..plans.latency.timing import Pass
from .deployable import Deployable, Outputs, Row

PACKAGE = "@huggingface/transformers"
INSTALL = f"npm install --ignore-scripts {PACKAGE}"
_SCRIPT = "transformers_js.mjs"
DTYPES = {"onnx/model.onnx": "fp32", "onnx/model_fp16.onnx": "fp16", "onnx/model_quantized.onnx": "q8"}
"""Graph → the library's word for its number type."""


def missing_reason() -> str | None:
    """What transformers.js lacks here, and how to install it; None if nothing.

    Node looks for the package in `node_modules` of the working folder and of the folders above it.
    """
    if shutil.which("node") is None:
        return "node is not installed: see nodejs.org"
    here = Path.cwd()
    if not any((folder / "node_modules" / PACKAGE / "package.json").is_file() for folder in (here, *here.parents)):
        return f"{PACKAGE} not installed: {INSTALL}"
    return None


class RuntimeProblem(Exception):
    """A runtime can't run a model; the message is its own."""


class Node:
    """A process of Node that runs models; use it in a `with` block."""

    def __enter__(self) -> "Node":
        code = resources.files(__package__).joinpath(_SCRIPT).read_text(encoding="utf-8")
        self.scratch = tempfile.TemporaryDirectory()
        self.errors = Path(self.scratch.name, "errors").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            ["node", "--input-type=module", "--eval", code],
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
        with suppress(BrokenPipeError):
            self.commands.close()
        self.answers.close()
        self.process.wait(timeout=60)
        self.errors.close()
        self.scratch.cleanup()

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
        file = Path(self.node.scratch.name, "results")
        shapes = self.node.ask("results", model=self.model, rows=self._texts(rows), file=str(file))["shapes"]
        values = torch.from_numpy(np.fromfile(file, dtype=np.float32))
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
