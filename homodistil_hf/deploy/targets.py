"""The targets of a deployment, by name: file, runtime, and what must be installed."""

import importlib.util
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..export.facts import FACTS_FILE
from ..files.messages import nearest_valid, short_repr
from ..models.onnx_graphs import missing_packages

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """A file for a runtime.

    Args:
        file: path in the export, where the runtime looks for it.
        runtime: name of the runtime that it is tried in.
        extra: the extra of this package that writes it.
    """

    file: str
    runtime: str
    extra: str = "onnx"


TARGETS = {
    "onnx": Target("onnx/model.onnx", "ONNX Runtime"),
    "onnx-int8": Target("onnx/model_quantized.onnx", "ONNX Runtime"),
    "onnx-fp16": Target("onnx/model_fp16.onnx", "ONNX Runtime"),
    "openvino": Target("openvino/openvino_model.xml", "OpenVINO", "openvino"),
    "transformers.js": Target("onnx/model.onnx", "transformers.js"),
}


def row_problems(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Rows of an export's facts whose file no target has: deploying removes, writes and sends files by these names."""
    graphs = {target.file for target in TARGETS.values() if target.runtime == "ONNX Runtime"}
    for row in rows:
        name, file = row["target"], row["file"]
        # transformers.js runs the graphs of other targets
        files = graphs if name == "transformers.js" else {one.file for key, one in TARGETS.items() if key == name}
        if file not in files:
            found = f"{short_repr(name)}: {short_repr(file)}"
            yield f"{FACTS_FILE} runtimes: expected a target and its file, found {found}"


def check_targets(to: str | Iterable[str]) -> list[str]:
    """The targets that a user names, each once, in the order of `TARGETS`.

    Raises:
        ValueError: none, an unknown one, or none that can be written here; one among others is left out, with a
            warning.
    """
    names = [to] if isinstance(to, str) else list(to)
    if not names:
        raise ValueError(f"to=[] names no target; expected some of {', '.join(TARGETS)}")
    problems = {name: problem for name in names if (problem := _problem(name))}
    if len(problems) == len({*names}):
        raise ValueError(next(iter(problems.values())))
    for problem in problems.values():
        logger.warning("%s; the other targets are made", problem)
    return [name for name in TARGETS if name in names and name not in problems]


def _problem(name: str) -> str | None:
    """The reason why a target can't be written here, or None; a ValueError for a name that none has."""
    if name not in TARGETS:
        raise ValueError(f"to={name!r} is unknown; {nearest_valid(name, TARGETS)}")
    extra, missing = TARGETS[name].extra, missing_packages()
    if extra != "onnx" and importlib.util.find_spec(extra) is None:
        missing = [*missing, extra]
    return f"to={name!r} needs {', '.join(missing)}; pip install 'homodistil-hf[{extra}]'" if missing else None
