"""Adds files for other runtimes to an export: they are made, run on texts, compared with the student, and timed.

Their figures go into facts and card. `verify` runs the files of an export again. runtimes.py writes and runs a file.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..export.card import render_card
from ..export.export_folder import check_target, facts_held, write_record, written_aside
from ..export.facts import FACTS_FILE, read_facts
from ..export.outcome import BATCH_SIZES, RUNTIMES, runtime_rows
from ..files.inside import links_to_folders, refuse_links_out
from ..files.messages import first_line, nearest_valid, short_repr
from ..files.provenance import machine_facts, version_of
from ..files.strict_json import is_int, is_number, read_json_object, write_json
from ..models.onnx_graphs import missing_packages
from ..models.tokenizers import save_tokenizer
from ..plans.latency import figures, time_in_turns
from .deployable import Deployable, Fidelity, Outputs, Row, model_with_head
from .runtimes import (
    DTYPES,
    Node,
    OnnxRuntime,
    OpenVino,
    Quantized,
    Runtime,
    RuntimeProblem,
    TransformersJs,
    node_problem,
    quantize,
    write_graph,
    write_half,
    write_int8,
    write_openvino,
)

logger = logging.getLogger(__name__)

LEAST = 0.98
NUM_ROUNDS = 7


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

EXACT = 1e-4
"""Largest distance of a float32 graph's results from the model's own."""
GRAPHS = ("onnx", "onnx-int8", "onnx-fp16")
"""Targets that are ONNX graphs."""
PROBED = (*GRAPHS, "openvino")
"""Targets that `verify` runs again, on the first of the package's own rows."""
_NUM_PROBE_ROWS = 12
_PACKAGES = {"ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
_SLACK = 2.0
"""How far the distance of an int8 graph may be above the stated one: processors round otherwise."""
_NO_NUMBERS: Fidelity = {"fidelity": 0.0}
"""Of results that are not finite."""
_TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Deployment:
    """How exports of one kind are deployed.

    Args:
        ready: folder or Hub name of an export, or of its teacher → the model.
        card: name of the folder and its facts → the card's text.
    """

    ready: Callable[[str | Path], Deployable]
    card: Callable[[str, Mapping[str, Any]], str]


WITH_HEAD = Deployment(model_with_head, lambda name, facts: render_card(facts))


def deploy_folder(
    folder: str | Path,
    to: str | Iterable[str],
    deployment: Deployment,
    *,
    teacher: str | Path | None = None,
    least: float = LEAST,
    texts: str | Path | None = None,
    num_rounds: int = NUM_ROUNDS,
) -> list[dict[str, Any]]:
    """Add files for runtimes to an export, each tried in its runtime; arguments as `deploy_export` has them.

    Returns:
        A row a file and runtime, as in `facts.json`.
    """
    folder = Path(folder)
    names, given = check_settings(to, least=least, texts=texts, num_rounds=num_rounds)
    facts = read_facts(folder)
    refuse_links_out(folder)
    target = check_target(folder, overwrite=True)
    earlier = runtime_rows(facts)
    if problems := list(row_problems(earlier)):
        raise ValueError(f"folder={str(folder)!r} can't be deployed: {problems[0]}; export again")
    student = deployment.ready(folder)
    as_given: dict[str, Any] = {"rows": given.rows, "takes_pairs": _takes_pairs(student, given, texts)}
    # transformers.js runs a graph, so one is made where the export has none
    if "transformers.js" in names and not any(row["target"] == "onnx" and row["is_written"] for row in earlier):
        names = list(dict.fromkeys(["onnx", *names]))
    # all is made and tried aside; at the end the export changes as a whole
    with TemporaryDirectory() as scratch:
        made = Workshop(student, Path(scratch, "student"), **as_given)
        beside = None
        if num_rounds and teacher is not None:
            try:
                beside = Workshop(deployment.ready(teacher), Path(scratch, "teacher"), **as_given)
            except (OSError, ValueError) as error:
                problem = first_line(error)
                logger.warning("teacher=%r can't be loaded, so its times are not measured: %s", str(teacher), problem)
        graphs = _graphs_for_javascript(names, earlier, folder, made)
        found: list[dict[str, Any]] = []
        for name in names:
            try:
                found += prove(name, made, beside, least=least, graphs=graphs, num_rounds=num_rounds)
            except Exception as error:  # exporters and runtimes raise errors of many kinds
                # all others are made of the float32 graph; a full disk refuses all as well
                if name == "onnx" or (name == names[-1] and not found) or isinstance(error, OSError):
                    raise
                graphs = [graph for graph in graphs if graph != name]
                logger.warning("to=%r can't be made, the other targets are: %s", name, first_line(error))
        machine = machine_facts()
        for row in found:
            row["machine"] = machine
        section: dict[str, Any] = {"note": student.note}
        # others may have written into the facts since they were read
        with facts_held(folder, facts) as facts:
            before = runtime_rows(facts)
            for row in before:  # earlier versions had one machine for all
                row.setdefault("machine", facts[RUNTIMES].get("machine"))
            section["rows"] = _merged(before, found)
            _publish(target, facts | {RUNTIMES: section}, made, deployment)
    _tell_what_is_not_written(found, least)
    return found


def _takes_pairs(student: Deployable, given: Texts, file: str | Path | None) -> bool:
    if given.has_pairs and not (student.takes_pairs or student.can_take_pairs):
        raise ValueError(
            f"texts={str(file)!r} has pairs, divided by a tabulator, but this model reads one text alone; give a "
            "line each, and no tabulators"
        )
    return student.takes_pairs or given.has_pairs


def _tell_what_is_not_written(rows: Iterable[Mapping[str, Any]], least: float) -> None:
    for row in rows:
        if not row["is_written"] and row["figures"] == _NO_NUMBERS:
            logger.warning("%s is not written: it gives results that are no numbers; keep another target", row["file"])
        elif not row["is_written"] and (fidelity := row["figures"].get("fidelity")) is not None:
            logger.warning(
                "%s is not written: %s %.4f is below least=%s; lower the bar with --least, or keep another target",
                *(row["file"], row["fidelity_name"], fidelity, least),
            )


def check_settings(
    to: str | Iterable[str], *, least: float = LEAST, texts: str | Path | None = None, num_rounds: int = NUM_ROUNDS
) -> tuple[list[str], Texts]:
    """The targets, see [`check_targets`], and the texts to compare; a ValueError for what can't be deployed so."""
    names = check_targets(to)
    if not 0 <= least <= 1:
        raise ValueError(f"least={least} is no share; expected 0 to 1, e.g. {LEAST}")
    if num_rounds < 0:
        raise ValueError(f"num_rounds={num_rounds} is below 0; expected 0, for no times, or more")
    return names, Texts(own_rows()) if texts is None else texts_of_file(texts)


def _graphs_for_javascript(names: list[str], earlier: list[dict[str, Any]], folder: Path, made: Workshop) -> list[str]:
    """Graphs that transformers.js runs: those that are made now, and those of the export, whose files are copied."""
    kept = [graph for graph in GRAPHS if graph not in names and (folder / TARGETS[graph].file).is_file()]
    kept = [graph for graph in kept if any(row["target"] == graph for row in earlier)]
    if "transformers.js" in names:
        for graph in kept:
            made.path(graph).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder / TARGETS[graph].file, made.path(graph))
    return [graph for graph in GRAPHS if graph in (*names, *kept)]


def _merged(earlier: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Earlier rows, unless their target or file was made again, and new ones, in the order of targets."""
    again = {row["target"] for row in found}
    # transformers.js runs the files of other targets, so what it found of an earlier file ends with that file.
    files = {row["file"] for row in found if row["target"] != "transformers.js"}
    rows = [row for row in earlier if row["target"] not in again and row["file"] not in files] + found
    refused = {row["file"] for row in rows if not row["is_written"]}
    for row in rows:
        row["is_written"] = row["file"] not in refused
    return sorted(rows, key=lambda row: list(TARGETS).index(row["target"]))


def _publish(target: Path, facts: dict[str, Any], made: Workshop, deployment: Deployment) -> None:
    """Write the export again as a whole, with the new files, facts and card."""
    refused = {row["file"] for row in facts[RUNTIMES]["rows"] if not row["is_written"]}
    with written_aside(target, overwrite=True) as aside:
        refuse_links_out(target)  # minutes have passed
        shutil.copytree(target, aside, dirs_exist_ok=True, ignore=links_to_folders)
        # a file below the bar goes, and the weights that OpenVINO has beside it; all names are those of targets
        for file in refused:
            (aside / file).unlink(missing_ok=True)
            (aside / file).with_suffix(".bin").unlink(missing_ok=True)
        written = {row["file"] for row in facts[RUNTIMES]["rows"]} - refused
        for file in sorted(written):
            for path in ((made.folder / file), (made.folder / file).with_suffix(".bin")):
                if path.is_file():
                    (aside / file).parent.mkdir(exist_ok=True)
                    shutil.copyfile(path, aside / path.relative_to(made.folder))
        limit_length(aside, made.deployable.max_length)
        write_record(aside, facts, partial(deployment.card, target.name))


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


class Workshop:
    """The files of one model for all runtimes, made on demand.

    Args:
        deployable: the model.
        folder: where to; transformers.js loads it.
        rows: what the files are compared on.
        takes_pairs: whether they are pairs; default: as the model takes the package's own.
    """

    def __init__(self, deployable: Deployable, folder: Path, rows: Sequence[Row], *, takes_pairs: bool | None = None):
        self.usual, self.folder, self.rows = deployable, folder, rows
        self.deployable = deployable if takes_pairs is None else replace(deployable, takes_pairs=takes_pairs)
        self.ways: list[Quantized] = []
        folder.mkdir(parents=True)

    @cached_property
    def expected(self) -> list[Outputs]:
        """The model's own results of all rows."""
        return self.deployable.results(self.rows)

    def compare(self, running: Runtime, *, only: Callable[[Row], bool] = lambda row: True) -> Fidelity:
        """Compare a runtime's results with the model's own, on the rows that `only` lets through.

        Results that are not finite, such as those of a float16 graph that overflows, have a fidelity of 0 alone.

        Raises:
            RuntimeProblem: those are fewer than two.
        """
        kept = [index for index, row in enumerate(self.rows) if only(row)]
        if len(kept) < 2:
            raise RuntimeProblem(f"{len(kept)} of {len(self.rows)} texts fit in whole; expected at least 2 to compare")
        found = running.results([self.rows[index] for index in kept])
        figures = self.deployable.compare([self.expected[index] for index in kept], found)
        return figures if all(map(math.isfinite, figures.values())) else dict(_NO_NUMBERS)

    def path(self, target: str) -> Path:
        """Place of a target's file."""
        return self.folder / TARGETS[target].file

    def make(self, target: str, *, least: float | None = None) -> Path:
        """The file of a target; written, with those that it is made from, unless it is there already.

        Args:
            target: a name of `TARGETS`.
            least: bar of the search for what stays float in an int8 graph; None: nothing does.
        """
        path = self.path(target)
        if path.exists():
            return path
        path.parent.mkdir(exist_ok=True)
        if target == "onnx":
            write_graph(self.deployable, path)
            return path
        source = self.make("onnx")
        if target == "onnx-fp16":
            write_half(source, path)
        elif target == "openvino":
            write_openvino(source, path)
        elif least is None:
            write_int8(source, path)
        else:
            self.ways = quantize(
                source, path, lambda graph: self.compare(OnnxRuntime(self.deployable, graph)), least=least
            )
        return path

    def add_tokenizer(self) -> Path:
        """Write configuration and tokenizer beside the graphs, where transformers.js reads them; return the folder."""
        if not (self.folder / _TOKENIZER_CONFIG).exists():
            self.deployable.config.save_pretrained(self.folder)
            save_tokenizer(self.deployable.tokenizer, self.folder)
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


# Each target is made, run and compared


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
    kind = runtime_of(target)
    running = kind(student.deployable, student.make(target, least=least))
    found = student.compare(running)
    distance = found.get("distance", math.inf)
    if target == "onnx" and not distance <= EXACT:
        raise ValueError(
            f"the graph of to={target!r} gives other results than the model, by {distance:.1e} of their "
            f"size; expected at most {EXACT:.0e}; export to another target, and report this"
        )
    ways = student.ways if target == "onnx-int8" else []
    beside = None
    if teacher is not None and num_rounds:
        beside = _runtime_of_teacher(lambda: kind(teacher.deployable, teacher.make(target)))
    row = _row(target, student, found, times(student.rows, running, beside, num_rounds=num_rounds))
    # on the package's own rows, which `verify` has too
    row["probe_distance"] = probe_distance(student.usual, kind(student.usual, student.path(target)))
    if not (math.isfinite(distance) and math.isfinite(row["probe_distance"])):
        row["figures"] = dict(_NO_NUMBERS)
    row["is_written"] = found["fidelity"] >= least and row["figures"] != _NO_NUMBERS
    # Another package may bring the runtime, such as onnxruntime-gpu.
    row["runtime"] = f"{row['runtime']} {version_of(_PACKAGES[row['runtime']]) or ''}".strip()
    if ways:
        row["kept_float"] = list(ways[0].kept_float)
        row["tried"] = [
            {"kept_float": list(way.kept_float), "size_bytes": way.size_bytes, **way.figures} for way in ways
        ]
    return [row]


def _runtime_of_teacher(make: Callable[[], Runtime]) -> Runtime | None:
    """None, with a warning, where it can't be made: the student's files are of use without the teacher's times."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001  exporters and runtimes raise errors of many kinds
        logger.warning("the teacher's graph can't be run, so its times are not measured: %s", first_line(error))
        return None


def runtime_of(target: str) -> type[OnnxRuntime] | type[OpenVino]:
    """The runtime, in this process, of a target in `PROBED`."""
    return OpenVino if target == "openvino" else OnnxRuntime


def probe_distance(deployable: Deployable, running: Runtime) -> float:
    """Distance of a runtime's results from the model's on the first of the package's own rows."""
    rows = own_rows()[:_NUM_PROBE_ROWS]
    return deployable.compare(deployable.results(rows), running.results(rows))["distance"]


def times(
    rows: Sequence[Row], student: Runtime, teacher: Runtime | None, *, num_rounds: int
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
    one, file = TARGETS[target], student.path(target)
    # OpenVINO has its weights in a file beside
    files = [path for path in (file, file.with_suffix(".bin")) if path.is_file()]
    return {
        "target": target,
        "file": one.file,
        "runtime": one.runtime,
        "size_bytes": sum(path.stat().st_size for path in files),
        "is_written": True,
        "fidelity_name": student.deployable.fidelity_name,
        "figures": dict(found),
        "latency_ms": dict(latency),
        "not_run": "",
    }


def _prove_javascript(
    student: Workshop, teacher: Workshop | None, *, graphs: Sequence[str], num_rounds: int
) -> list[dict[str, Any]]:
    problem = node_problem()
    if student.deployable.javascript is None:
        problem = f"transformers.js can't make its results. {student.deployable.note}".strip()
    rows = []
    with ExitStack() as stack:
        node = None if problem else stack.enter_context(Node())
        for graph in graphs:
            student.make(graph)
            row = _row(graph, student, {}, {}) | {"not_run": problem or ""}
            row |= {"target": "transformers.js", "runtime": "transformers.js"}
            rows.append(row)
            if node is None:
                continue
            logger.info("transformers.js: running %s", row["file"])
            dtype = DTYPES[row["file"]]
            try:
                running = TransformersJs(node, student.deployable, student.add_tokenizer(), dtype)
                row["runtime"] += f" {running.version}"
                # It cuts a text that is too long without its last special token.
                row["figures"] = student.compare(running, only=student.deployable.fits)
                beside = None
                if teacher is not None and num_rounds and teacher.deployable.javascript is not None:
                    beside = _runtime_of_teacher(partial(_in_javascript, node, teacher, graph, dtype))
                row["latency_ms"] = times(student.rows, running, beside, num_rounds=num_rounds)
            except RuntimeProblem as error:
                row["not_run"] = f"transformers.js: {error}"
    return rows


def _in_javascript(node: Node, workshop: Workshop, graph: str, dtype: str) -> TransformersJs:
    workshop.make(graph)
    return TransformersJs(node, workshop.deployable, workshop.add_tokenizer(), dtype)


# What `verify` asks


def check_graphs(
    folder: Path, facts: Mapping[str, Any], ready: Callable[[str | Path], Deployable]
) -> tuple[list[str], list[str]]:
    """Run the files of an export that has no other problems.

    Args:
        folder: the export.
        facts: content of its `facts.json`.
        ready: of its [`Deployment`].

    Returns:
        `(problems, notes)`: files whose results are farther from the model's than the facts say, and files whose
        runtime isn't installed; a line each.
    """
    rows = [row for row in runtime_rows(facts) if row["target"] in PROBED and row["is_written"]]
    problems: list[str] = []
    notes: list[str] = []
    if not rows:
        return problems, notes
    deployable = ready(folder)
    for row in rows:
        name, file, stated = row["target"], row["file"], row.get("probe_distance")
        runtime, extra = TARGETS[name].runtime, TARGETS[name].extra
        if not (folder / file).is_file() or not is_number(stated):
            problems.append(f"{file}: expected the file of {name} and its distance, found {short_repr(stated)}")
            continue
        if importlib.util.find_spec("openvino") is None if name == "openvino" else missing_packages():
            install = f"pip install 'homodistil-hf[{extra}]'"
            notes.append(f"{file}: not run, {runtime} is not installed: {install}")
            continue
        limit = max(_SLACK * stated, EXACT)
        try:
            found = probe_distance(deployable, runtime_of(name)(deployable, folder / file))
        except Exception as error:  # noqa: BLE001 - runtimes raise errors of their own kinds
            problems.append(f"{file}: can't be run by {runtime}: {first_line(error)}")
            continue
        # written so that NaN is a problem, too
        if not found <= limit:
            problems.append(
                f"{file}: expected results within {limit:.1e} of the model's, found a distance of {found:.3g}"
            )
    return problems, notes


# The texts

_TEXTS_FILE, _NUM_SENTENCES = "texts.txt", 24
_LONG = "More than any model reads. " * 600


def own_rows() -> list[Row]:
    """The package's own texts, pairs of neighbours: 24 sentences, each with its neighbour, other kinds, long ones."""
    lines = resources.files(__package__).joinpath(_TEXTS_FILE).read_text(encoding="utf-8").splitlines()
    sentences, others = lines[:_NUM_SENTENCES], lines[_NUM_SENTENCES:]
    joined = [f"{one} {other}" for one, other in zip(sentences, [*sentences[1:], sentences[0]], strict=True)]
    paragraphs = [" ".join(sentences[start : start + 6]) for start in range(0, len(sentences), 6)]
    return _paired([*sentences, *joined, "", *others, *paragraphs, _LONG])


class Texts(NamedTuple):
    """What files are compared on; without pairs of a user's own the second text of a row is its neighbour."""

    rows: list[Row]
    has_pairs: bool = False


def texts_of_file(file: str | Path) -> Texts:
    """Lines of a text file as rows; a tabulator divides a pair.

    Raises:
        ValueError: no such file, no UTF-8, or fewer than two lines.
    """
    label = f"texts={str(file)!r}"
    if not Path(file).is_file():
        raise ValueError(f"{label} is no file; name a text file with one text a line")
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{label} is no UTF-8 text ({error.reason}); save it as UTF-8") from error
    # not by splitlines, which also ends lines at marks inside a text
    lines = [line for line in text.split("\n") if line.strip()]
    if len(lines) < 2:
        raise ValueError(f"{label} has {len(lines)} texts; expected at least 2, one a line")
    pairs = [line.partition("\t") for line in lines]
    neighbours = _paired([first for first, _, _ in pairs])
    rows = [(first, second) if tab else row for (first, tab, second), row in zip(pairs, neighbours, strict=True)]
    return Texts(rows, any(tab for _, tab, _ in pairs))


def _paired(texts: list[str]) -> list[Row]:
    return list(zip(texts, [*texts[1:], texts[0]], strict=True))
