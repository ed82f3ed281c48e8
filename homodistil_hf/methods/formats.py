"""Which code writes and verifies an export, by what lies in its folder; one line a format."""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch

from ..deploy.folder import (
    LEAST,
    NUM_ROUNDS,
    WITH_HEAD,
    Deployment,
    check_graphs,
    check_settings,
    deploy_folder,
    row_problems,
)
from ..export.export_folder import (
    check_output,
    export_model_from,
    exported_student,
    load_nested_export,
    student_in,
)
from ..export.facts import MULTI_VECTOR, NOT_DEPLOYED, PACKED, PACKED_VECTORS, PAIR, SPARSE, VECTORS, read_facts
from ..export.nested import NESTED_FILE, member_names, member_probes, probe_states
from ..export.outcome import runtime_rows
from ..export.verify import RELATIVE_TOLERANCE, VerifyReport, difference_problems, verify_model
from ..models.conversion import to_stock
from ..models.equality import relative_difference
from ..models.loading import MODULES_FILE
from ..plans.budgets import LATENCY_BUDGET
from ..plans.resolve import member_folder

_OTHERS = {
    PACKED: "homodistil_hf.methods.binarization.folder:verify_packed",
    **dict.fromkeys(
        (VECTORS, PACKED_VECTORS, PAIR, SPARSE, MULTI_VECTOR), "homodistil_hf.embedding.folder:verify_embedding"
    ),
}
"""Format in `facts.json` → what verifies the folder; the core verifies and deploys all others."""

_ONE_FORM = {PACKED: "model of bits", SPARSE: "sparse encoder", MULTI_VECTOR: "multi-vector encoder"}
"""Format of exports that are written no other way → what they are."""


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
    verify, deployment = _of_format(str(facts.get("format")))
    report: VerifyReport = verify(folder, facts)
    if not report.ok or deployment is None:
        return report
    if (folder / NESTED_FILE).is_file():
        report = _with_members(report)
    wrong, notes = check_graphs(folder, facts, deployment.ready)
    return replace(report, problems=(*report.problems, *wrong), notes=tuple(notes))


def _with_members(report: VerifyReport) -> VerifyReport:
    """Check the smaller sizes of a nested student as well: each is the one that was trained, and as its own export."""
    problems: list[str] = []
    differences = [report.max_relative_difference]
    for name, probe in member_probes(report.folder).items():
        model: Any = load_nested(report.folder, name)
        states = probe_states(getattr(model, "encoder", model))
        distance = relative_difference(torch.tensor(states), torch.tensor(probe))
        own = [*difference_problems({"hidden states in training": distance}, RELATIVE_TOLERANCE)]
        with tempfile.TemporaryDirectory() as parent:
            found = verify_export(export_from(report.folder, Path(parent, "member"), member=name))
        problems += [f"member {name}: {problem}" for problem in (*own, *found.problems)]
        differences.append(found.max_relative_difference)
    largest = max((one for one in differences if one is not None), default=None)
    return replace(report, problems=tuple(problems), max_relative_difference=largest)


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
    _, deployment = _of_format(name)
    if deployment is None:
        raise ValueError(
            f"folder={str(folder)!r} has format={name!r}, which no other runtime reads; deploy a standard export, and "
            "load a sparse or multi-vector encoder, or vectors of bits, in sentence-transformers"
        )
    if teacher is None:
        teacher = student_in(folder).settings.get("teacher")
    return deploy_folder(found, to, deployment, teacher=teacher, least=least, texts=texts, num_rounds=num_rounds)


def deploy_members(
    folder: str | Path,
    to: str | Iterable[str],
    *,
    member: str | None,
    output: str | Path | None,
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Deploy an export; or sizes of a nested student, written to `output` as [`export_members`] has it.

    Returns:
        Name of each size, or "" → a row a file and runtime.
    """
    if (member is None) is not (output is None):
        raise ValueError(
            f"member={member!r} with output={output!r}: name both, to deploy a size of a nested student, or none"
        )
    if output is None:
        return {"": deploy_export(folder, to, **settings)}
    teacher = settings.pop("teacher", None) or student_in(folder).settings.get("teacher")
    check_settings(to, **settings)
    exports = export_members(folder, output, member, overwrite=overwrite)
    return {name: deploy_export(one, to, teacher=teacher, **settings) for name, one in exports.items()}


def _of_format(name: str) -> tuple[Callable[..., VerifyReport], Deployment | None]:
    """What verifies exports of a format, and how they are deployed; None where no runtime could read it."""
    if name not in _OTHERS:
        return verify_model, WITH_HEAD
    is_deployed = name not in NOT_DEPLOYED
    deployment = resolve_name("homodistil_hf.embedding.deployable:EMBEDDING") if is_deployed else None
    return resolve_name(_OTHERS[name]), deployment


def load_nested(
    folder: str | Path,
    member: str | float | None = None,
    *,
    macs: float | str | None = None,
    latency_ms: float | None = None,
) -> Any:
    """Load one size of a nested student as a model of its own, of stock classes.

    Args:
        folder: the student of a run with `nested=True`, or `OUTPUT_DIR` of the run.
        member: name of a size, as in `nested.json`, such as `"macs=0.25"`; the largest is also loaded like any export.
        macs: in its place, the share of MACs, also one between two sizes, which wasn't trained.
        latency_ms: in its place, milliseconds of a pass of one row of 128 tokens: the largest size, also one between
            two, that is so fast on this machine. It is timed now. Further conditions stand in `member`, as
            `"latency_ms=5,batch_size=8,length=64"`.

    Returns:
        The model in evaluation mode, as `from_pretrained` of the folder gives the largest; of embedding models as
        [`load_embedding_model`].

    Raises:
        ValueError: no nested student, or no such member.
    """
    named = {"member": member, "macs": macs, "latency_ms": latency_ms}
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) != 1:
        told = ", ".join(f"{name}={value!r}" for name, value in named.items())
        raise ValueError(f"{told}: name one of them, such as macs=0.25")
    found, (wanted,) = exported_student(folder), given.values()
    if latency_ms is not None:
        wanted = f"{LATENCY_BUDGET}={latency_ms}"
    if (found / MODULES_FILE).is_file():
        load: Any = resolve_name("homodistil_hf.embedding.folder:load_nested_embedding")
        return load(found, wanted)[0]
    return to_stock(load_nested_export(found, wanted)[0]).eval()


def export_from(folder: str | Path, output: str | Path, *, teacher: str | None = None, **settings: Any) -> Path:
    """Export the student of a finished run, of a checkpoint, or of another export; see [`export_model_from`]."""
    found = student_in(folder)
    check_output(output, overwrite=bool(settings.get("overwrite")), argument="output")
    if found.kind == "export" and (kind := _ONE_FORM.get(read_facts(found.folder).get("format", ""))):
        raise ValueError(f"folder={str(folder)!r} is a {kind}, which has one form alone: copy {found.folder}")
    if (found.folder / MODULES_FILE).is_file():
        settings.pop("allow_partial", None)
        export: Any = resolve_name("homodistil_hf.embedding.folder:export_embedding_from")
        of_run = found.settings.get("teacher")
        exported: Path = export(found.folder, output, teacher=teacher, teacher_of_run=of_run, **settings)
        return exported
    return export_model_from(folder, output, teacher=teacher, **settings)


def export_members(folder: str | Path, output: str | Path, member: str | None, **settings: Any) -> dict[str, Path]:
    """Export a student, or one size of a nested one, to `output`; or `"all"` its members, each to a folder in there.

    Args:
        folder: as [`export_from`] takes it.
        output: folder to write.
        member: "all", or a size, see [`load_nested`]; None: the student.
        settings: others of [`export_from`].

    Returns:
        Name of each size, or "" → its folder.
    """
    if member != "all":
        return {member or "": export_from(folder, output, member=member, **settings)}
    names = member_names(exported_student(folder))
    folders = {name: Path(output, member_folder(number, name)) for number, name in enumerate(names, start=1)}
    for one in folders.values():  # before any is written
        check_output(one, overwrite=bool(settings.get("overwrite")), argument="output")
    return {name: export_from(folder, one, member=name, **settings) for name, one in folders.items()}
