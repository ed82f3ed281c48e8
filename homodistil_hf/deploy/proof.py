"""Runs the files of a deployment in their runtimes: likeness to the student, and times beside the teacher's."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from ..export.runtimes import BATCH_SIZES
from ..files.provenance import version_of
from ..plans.latency.timing import figures, time_in_turns
from . import llama_cpp, transformers_js
from .deployable import Deployable, Fidelity, Row
from .graphs import signature
from .llama_cpp import LlamaCpp
from .node import Node, RuntimeProblem
from .runtimes import OnnxRuntime, OpenVino
from .targets import TARGETS
from .texts import own_rows
from .transformers_js import DTYPES, TransformersJs
from .workshop import Running, Workshop, size_of

logger = logging.getLogger(__name__)

EXACT = 1e-4
"""Largest distance of a float32 graph's results from the model's own."""
GRAPHS = ("onnx", "onnx-int8", "onnx-fp16")
"""Targets that are ONNX graphs."""
PROBED = (*GRAPHS, "openvino")
"""Targets that `verify` runs again, on the first of the package's own rows."""
_NUM_PROBE_ROWS = 12
_PACKAGES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}


def prove(
    target: str, student: Workshop, teacher: Workshop | None, *, least: float, graphs: Sequence[str], num_rounds: int
) -> list[dict[str, Any]]:
    """Make the file of a target, run it, and return a row of facts for each file and runtime.

    Args:
        target: a name of `TARGETS`.
        student: its files.
        teacher: for times beside the student's; None: without.
        least: fidelity below which a file is not kept.
        graphs: targets whose graphs transformers.js runs.
        num_rounds: timed rounds; 0: nothing is timed.

    Raises:
        ValueError: a float32 graph differs from the model.
    """
    if target == "transformers.js":
        return _prove_javascript(student, teacher, graphs=graphs, num_rounds=num_rounds)
    logger.info("%s: writing and comparing", target)
    if target == "gguf":
        return [_prove_gguf(student, teacher, least=least, num_rounds=num_rounds)]
    kind = runtime_of(target)
    running = kind(student.deployable, student.make(target, least=least))
    found = student.compare(running)
    if target == "onnx" and not found["distance"] <= EXACT:
        raise ValueError(
            f"the graph of to={target!r} gives other results than the model, by {found['distance']:.1e} of their "
            f"size; expected at most {EXACT:.0e}; export to another target, and report this"
        )
    ways = student.ways if target == "onnx-int8" else []
    beside = None
    if teacher is not None and num_rounds:
        kept = ways[0].kept_float if ways else None
        beside = kind(teacher.deployable, teacher.make(target, kept_float=kept))
    row = _row(target, student, found, times(student.rows, running, beside, num_rounds=num_rounds))
    row["is_written"] = found["fidelity"] >= least
    row |= signature(student.path(target)) if target in GRAPHS else {}
    row["probe_distance"] = probe_distance(student.deployable, running)
    # Another package may bring the runtime, such as onnxruntime-gpu.
    row["runtime"] = f"{row['runtime']} {version_of(_PACKAGES[row['runtime']]) or ''}".strip()
    if ways:
        row["kept_float"] = list(ways[0].kept_float)
        row["tried"] = [
            {"kept_float": list(way.kept_float), "size_bytes": way.size_bytes, **way.figures} for way in ways
        ]
    return [row]


def runtime_of(target: str) -> type[OnnxRuntime] | type[OpenVino]:
    """The runtime, in this process, of a target in `PROBED`."""
    return OpenVino if target == "openvino" else OnnxRuntime


def probe_distance(deployable: Deployable, running: Running) -> float:
    """Distance of a runtime's results from the model's on the first of the package's own rows."""
    rows = own_rows()[:_NUM_PROBE_ROWS]
    return deployable.compare(deployable.results(rows), running.results(rows))["distance"]


def times(
    rows: Sequence[Row], student: Running, teacher: Running | None, *, num_rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of a pass over one text and over 32, of student and teacher in turns; empty for no rounds."""
    if not num_rounds:
        return {}
    sides = {"student": student} | ({"teacher": teacher} if teacher is not None else {})
    # The package's rows 24 to 47 are pairs of sentences; of a user's own texts any are as good.
    chosen = rows[24:48] or rows
    batches = {size: [chosen[index % len(chosen)] for index in range(size)] for size in BATCH_SIZES}
    passes = {f"{side} {size}": one.timed(batches[size]) for size in BATCH_SIZES for side, one in sides.items()}
    found = figures(time_in_turns(passes, num_rounds=num_rounds, num_warmup=1))["latency"]
    return {side: {str(size): found[f"{side} {size}"]["median_ms"] for size in BATCH_SIZES} for side in sides}


def _row(target: str, student: Workshop, found: Fidelity, latency: Mapping[str, Any]) -> dict[str, Any]:
    one = TARGETS[target]
    return {
        "target": target,
        "file": one.file,
        "runtime": one.runtime,
        "precision": one.precision,
        "size_bytes": size_of(student.path(target)),
        "is_written": True,
        "fidelity_name": student.deployable.fidelity_name,
        "figures": dict(found),
        "latency_ms": dict(latency),
        "not_run": "",
    }


def _prove_javascript(
    student: Workshop, teacher: Workshop | None, *, graphs: Sequence[str], num_rounds: int
) -> list[dict[str, Any]]:
    problem = transformers_js.missing_reason()
    if student.deployable.javascript is None:
        problem = f"transformers.js can't make its results. {student.deployable.note}".strip()
    rows = []
    with ExitStack() as stack:
        node = None if problem else stack.enter_context(Node(transformers_js.SCRIPT, transformers_js.PACKAGE))
        for graph in graphs:
            student.make(graph)
            row = _row(graph, student, {}, {}) | {"not_run": problem or ""}
            row |= {"target": "transformers.js", "runtime": "transformers.js"}
            if node is not None:
                _run_javascript(row, node, student, teacher, graph, num_rounds)
            rows.append(row)
    return rows


def _run_javascript(
    row: dict[str, Any], node: Node, student: Workshop, teacher: Workshop | None, graph: str, num_rounds: int
) -> None:
    logger.info("transformers.js: running %s", row["file"])
    dtype = DTYPES[row["file"]]
    try:
        running = TransformersJs(node, student.deployable, student.add_tokenizer(), dtype)
        row["runtime"] += f" {running.version}"
        # It cuts a text that is too long without its last special token.
        row["figures"] = student.compare(running, only=student.deployable.fits)
        beside = None
        if teacher is not None and num_rounds and teacher.deployable.javascript is not None:
            teacher.make(graph, kept_float=student.ways[0].kept_float if student.ways else ())
            beside = TransformersJs(node, teacher.deployable, teacher.add_tokenizer(), dtype)
        row["latency_ms"] = times(student.rows, running, beside, num_rounds=num_rounds)
    except RuntimeProblem as error:
        row["not_run"] = f"transformers.js: {error}"


def _prove_gguf(student: Workshop, teacher: Workshop | None, *, least: float, num_rounds: int) -> dict[str, Any]:
    path, problem = student.make("gguf"), llama_cpp.missing_reason()
    row = _row("gguf", student, {}, {}) | {"not_run": problem or ""}
    if problem:
        return row
    with Node(llama_cpp.SCRIPT, llama_cpp.PACKAGE) as node:
        try:
            running = LlamaCpp(node, student.deployable, path)
            row["figures"] = student.compare(running, only=running.can_read)
            row["is_written"] = row["figures"]["fidelity"] >= least
            beside = None
            if teacher is not None and num_rounds and teacher.deployable.gguf is not None:
                beside = LlamaCpp(node, teacher.deployable, teacher.make("gguf"))
            row["latency_ms"] = times(student.rows, running, beside, num_rounds=num_rounds)
        except RuntimeProblem as error:
            row["not_run"] = f"llama.cpp: {error}"
    return row
