"""`homodistil export` and `homodistil verify`: write a student to a folder, and check one."""

import argparse
import sys
from typing import Any

from .parsing import add_command, show_logs


def add_export(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "export",
        _export,
        help="write the student of a run, of a checkpoint or of another export to a folder",
        example="homodistil export runs/my-student --output my-student-compact --format compact",
    )
    parser.add_argument("folder", metavar="FOLDER", help="finished run, checkpoint-N, or export")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--format", default="standard", help="standard: stock BERT (default); compact: unpadded, with its own code"
    )
    parser.add_argument("--allow_partial", action="store_true", help="also take a student that is not at its plan yet")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in DIR (overwrite=True)")
    parser.add_argument("--teacher", help="Hub name or folder, for the card; default: as the run recorded it")


def _export(flags: argparse.Namespace) -> int:
    from ..export.student_in_folder import export_folder

    show_logs()
    folder = export_folder(
        flags.folder,
        flags.output,
        format=flags.format,
        allow_partial=flags.allow_partial,
        teacher=flags.teacher,
        overwrite=flags.overwrite,
    )
    print(f"{flags.format} export written to {folder}")
    return 0


def add_verify(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "verify",
        _verify,
        help="load an export in a fresh process without this package and check it against its facts.json",
        example="homodistil verify runs/my-student/student",
    )
    parser.add_argument("folder", metavar="FOLDER", help="export")


def _verify(flags: argparse.Namespace) -> int:
    from ..export.verify import verify_export

    report = verify_export(flags.folder)
    if report.ok:
        print(
            f"{flags.folder}: all is well; largest relative difference of logits {report.max_relative_difference:.1e}"
        )
        if report.code_sha256:
            print(f"{flags.folder}: its code is this package's own modelling file, sha256 {report.code_sha256}")
        return 0
    for problem in report.problems:
        print(f"{flags.folder}: {problem}", file=sys.stderr)
    return 1
