"""Adds the files of a deployment to an export, with their figures in its facts and its card."""

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..export.card import render_card
from ..export.export_folder import check_target, facts_held, written_aside
from ..export.facts import CARD_FILE, FACTS_FILE, file_facts, read_facts
from ..export.runtimes import RUNTIMES, runtime_rows
from ..files.inside import links_to_folders, refuse_links_out
from ..files.messages import first_line
from ..files.provenance import machine_facts
from ..files.strict_json import write_json
from .deployable import Deployable, model_with_head
from .proof import GRAPHS, TARGETS, Workshop, check_targets, limit_length, own_rows, prove, row_problems, rows_of_file

logger = logging.getLogger(__name__)

LEAST = 0.98
NUM_ROUNDS = 7


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
    folder, names = Path(folder), check_targets(to)
    if not 0 <= least <= 1:
        raise ValueError(f"least={least} is no share; expected 0 to 1, e.g. {LEAST}")
    if num_rounds < 0:
        raise ValueError(f"num_rounds={num_rounds} is below 0; expected 0, for no times, or more")
    rows = own_rows() if texts is None else rows_of_file(texts)
    facts = read_facts(folder)
    refuse_links_out(folder)
    target = check_target(folder, overwrite=True)
    earlier = runtime_rows(facts)
    if problems := list(row_problems(earlier)):
        raise ValueError(f"folder={str(folder)!r} can't be deployed: {problems[0]}; export again")
    student = deployment.ready(folder)
    # transformers.js runs a graph, so one is made where the export has none
    if "transformers.js" in names and not any(row["target"] == "onnx" and row["is_written"] for row in earlier):
        names = list(dict.fromkeys(["onnx", *names]))
    # all is made and tried aside; at the end the export changes as a whole
    with TemporaryDirectory() as scratch:
        made = Workshop(student, Path(scratch, "student"), rows)
        beside = None
        if num_rounds and teacher is not None:
            try:
                beside = Workshop(deployment.ready(teacher), Path(scratch, "teacher"), [])
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
        section: dict[str, Any] = {
            "least": least,
            "texts": {"num_texts": len(rows), "are_own": texts is not None},
            "machine": machine_facts(),
            "note": student.note,
        }
        # others may have written into the facts since they were read
        with facts_held(folder, facts) as facts:
            section["rows"] = _merged(runtime_rows(facts), found)
            _publish(target, facts | {RUNTIMES: section}, made, deployment)
    for row in found:
        if not row["is_written"] and (fidelity := row["figures"].get("fidelity")) is not None:
            logger.warning(
                "%s is not written: %s %.4f is below least=%s; lower the bar with --least, or keep another target",
                *(row["file"], row["fidelity_name"], fidelity, least),
            )
    return found


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
        # digests when all other files are there
        facts["files"] = file_facts(aside)
        write_json(aside / FACTS_FILE, facts)
        (aside / CARD_FILE).write_text(deployment.card(target.name, facts), encoding="utf-8")
