"""Which code writes and verifies an export, by what lies in its folder; one line a format."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..deploy.folder import LEAST, NUM_ROUNDS, WITH_HEAD, Deployment, deploy_folder
from ..deploy.proof import graph_problems, rows_to_run, skipped_graphs
from ..deploy.targets import row_problems
from ..embedding.deployable import EMBEDDING
from ..embedding.folder import FORMAT, PAIR, export_embedding_from
from ..embedding.reading import is_embedding_folder
from ..embedding.verify import verify_embedding
from ..export.export_folder import check_output
from ..export.facts import read_facts
from ..export.runtimes import runtime_rows
from ..export.student_in_folder import export_model_from, exported_student, student_in
from ..export.verify import VerifyReport, verify_model
from .binarization.folder import PACKED, verify_packed

_VERIFIERS: dict[str, Callable[..., VerifyReport]] = {
    PACKED: verify_packed,
    FORMAT: verify_embedding,
    PAIR: verify_embedding,
}
"""Format in `facts.json` → what verifies the folder; the core verifies all others."""
_DEPLOYMENTS: dict[str, Deployment | None] = {PACKED: None, FORMAT: EMBEDDING, PAIR: None}
"""Format in `facts.json` → how it is deployed, or None where no runtime could read it; the core deploys all others."""
_EXPORTERS: tuple[tuple[Callable[..., bool], Callable[..., Path]], ...] = (
    (is_embedding_folder, export_embedding_from),
)
"""Whether a folder is of a format that is none of transformers' alone → what exports it again."""


def verify_export(folder: str | Path) -> VerifyReport:
    """Check an export against its own facts, and load it without this package.

    Files are checked first: a folder with a damaged, missing or unexpected file is not loaded. Remote code of a
    compact export runs only if it is this package's own modelling file.

    Args:
        folder: what [`export_student`] wrote.

    Returns:
        [`VerifyReport`].
    """
    folder = Path(folder)
    try:
        facts = read_facts(folder)
    except ValueError as error:
        return VerifyReport(folder, (str(error),))
    if problems := tuple(row_problems(runtime_rows(facts))):
        return VerifyReport(folder, problems)
    report = _VERIFIERS.get(str(facts.get("format")), verify_model)(folder, facts)
    deployment = _DEPLOYMENTS.get(str(facts.get("format")), WITH_HEAD)
    if not report.ok or not rows_to_run(facts) or deployment is None:
        return report
    problems = tuple(graph_problems(folder, facts, deployment.ready(folder)))
    return replace(report, problems=problems, notes=tuple(skipped_graphs(facts)))


def deploy_export(
    folder: str | Path,
    to: str | Iterable[str] = ("onnx",),
    *,
    teacher: str | Path | None = None,
    least: float = LEAST,
    texts: str | Path | None = None,
    num_rounds: int = NUM_ROUNDS,
) -> list[dict[str, Any]]:
    """Add files for other runtimes to an export, each compared with the student in its runtime.

    Results of the comparison and times go into `facts.json` and the card. A file whose runtime isn't installed is
    written and marked "not run".

    Args:
        folder: an export, or `OUTPUT_DIR` of a finished run.
        to: targets, see [`TARGETS`].
        teacher: folder or Hub name of the model that is timed beside the student; default: as the run recorded it.
        least: a file is not written if its cosine, or its share of equal answers, is lower, 0 to 1.
        texts: file of the texts that are compared, one a line, a tabulator inside a pair; default: the package's own.
        num_rounds: timed rounds, at least 0; 0: nothing is timed.

    Returns:
        A row a file and runtime.

    Raises:
        ValueError: an unknown target, a missing package, an export that no runtime can read, or a float32 graph that
            differs from the student.
    """
    found = exported_student(folder)
    name = str(read_facts(found).get("format"))
    deployment = _DEPLOYMENTS.get(name, WITH_HEAD)
    if deployment is None:
        raise ValueError(
            f"folder={str(folder)!r} has format={name!r}, which no other runtime reads; deploy a standard export"
        )
    if teacher is None:
        teacher = student_in(folder).settings.get("teacher")
    return deploy_folder(found, to, deployment, teacher=teacher, least=least, texts=texts, num_rounds=num_rounds)


def export_from(source: str | Path, output: str | Path, *, teacher: str | None = None, **settings: Any) -> Path:
    """Export the student of a finished run, of a checkpoint, or of another export; see [`export_model_from`]."""
    found = student_in(source)
    check_output(output, overwrite=bool(settings.get("overwrite")), argument="output")
    for is_of_format, export in _EXPORTERS:
        if is_of_format(found.folder):
            settings.pop("allow_partial", None)
            return export(found.folder, output, teacher=teacher or found.settings.get("teacher"), **settings)
    return export_model_from(source, output, teacher=teacher, **settings)
