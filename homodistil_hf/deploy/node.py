"""A process of Node that runs models by one of the scripts beside this file: a JSON command a line, a JSON answer."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast


def node_problem(package: str) -> str | None:
    """What a package of Node lacks here, and how to install it; None if nothing."""
    if shutil.which("node") is None:
        return "node is not installed: see nodejs.org"
    if modules_with(package) is None:
        return f"{package} not installed: npm install --ignore-scripts {package}"
    return None


def modules_with(package: str) -> Path | None:
    """The `node_modules` that has a package: of the working folder or of one above it, as Node looks."""
    here = Path.cwd()
    found = (folder / "node_modules" for folder in (here, *here.parents))
    return next((modules.resolve() for modules in found if (modules / package / "package.json").is_file()), None)


class RuntimeProblem(Exception):
    """A runtime can't run a model; the message is its own."""


class Node:
    """A process of Node; use it in a `with` block.

    Args:
        script: name of the script.
        package: of Node, which the script imports.
    """

    def __init__(self, script: str, package: str):
        self.script, self.package = script, package

    def __enter__(self) -> "Node":
        self.folder = tempfile.TemporaryDirectory()
        self.scratch = Path(self.folder.name)
        code = resources.files(__package__).joinpath(self.script).read_text(encoding="utf-8")
        (self.scratch / self.script).write_text(code, encoding="utf-8")
        # Node looks for packages beside the script.
        (self.scratch / "node_modules").symlink_to(cast(Path, modules_with(self.package)), target_is_directory=True)
        self.errors = (self.scratch / "errors").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            ["node", str(self.scratch / self.script)],
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
