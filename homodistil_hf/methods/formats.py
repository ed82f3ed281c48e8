"""Which code writes and verifies an export, by what lies in its folder; one line a format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..export.export_folder import check_output
from ..export.facts import read_facts
from ..export.student_in_folder import export_model_from, student_in
from ..export.verify import VerifyReport, verify_model
from .binarization.folder import PACKED, verify_packed
from .embedding.folder import FORMAT, PAIR, export_embedding_from
from .embedding.reading import is_embedding_folder
from .embedding.verify import verify_embedding

_VERIFIERS: dict[str, Callable[..., VerifyReport]] = {
    PACKED: verify_packed,
    FORMAT: verify_embedding,
    PAIR: verify_embedding,
}
"""Format in `facts.json` → what verifies the folder; the core verifies all others."""
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
    return _VERIFIERS.get(str(facts.get("format")), verify_model)(folder, facts)


def export_from(source: str | Path, output: str | Path, *, teacher: str | None = None, **settings: Any) -> Path:
    """Export the student of a finished run, of a checkpoint, or of another export; see [`export_model_from`]."""
    found = student_in(source)
    check_output(output, overwrite=bool(settings.get("overwrite")), argument="output")
    for is_of_format, export in _EXPORTERS:
        if is_of_format(found.folder):
            settings.pop("allow_partial", None)
            return export(found.folder, output, teacher=teacher or found.settings.get("teacher"), **settings)
    return export_model_from(source, output, teacher=teacher, **settings)
