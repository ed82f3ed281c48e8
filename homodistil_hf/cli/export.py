"""`homodistil export`, `verify` and `push`: write a student to a folder, check a folder, upload it."""

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from ..files.settings import flag
from ..tables import aligned_lines
from .command import Command, collect_again, show_logs


@dataclass(kw_only=True)
class Export(Command):
    """Write the student of a run, of a checkpoint or of another export to a folder."""

    example: ClassVar[str] = "homodistil export runs/my-student --output my-student-compact --format compact"
    folder: str = flag("finished run, checkpoint-N, or export", positional=True, metavar="FOLDER")
    output: str = flag("folder to write", metavar="DIR")
    format: str = flag("standard (default); compact: unpadded, own code; pair: with the teacher", default="standard")
    member: str | None = flag(
        "of a nested student: macs=0.25, latency_ms=5 (the largest so fast here), or all, each to a folder in DIR; "
        "default: the largest",
        default=None,
    )
    allow_partial: bool = flag("also take a student that is not at its plan yet", default=False)
    overwrite: bool = flag("replace an earlier export in DIR", default=False)
    teacher: str | None = flag("Hub name or folder, for the card; default: as the run recorded it", default=None)

    def run(self) -> int:
        """Write the export."""
        from ..methods.formats import export_members

        show_logs()
        how: Any = {name: getattr(self, name) for name in ("format", "allow_partial", "teacher", "overwrite")}
        for folder in export_members(self.folder, self.output, self.member, **how).values():
            print(f"{self.format} export written to {folder}")
        return 0


@dataclass
class Verify(Command):
    """Load an export in a fresh process without this package and check it against its facts.json."""

    example: ClassVar[str] = "homodistil verify runs/my-student/student"
    folder: str = flag("export, or finished run", positional=True, metavar="FOLDER")
    least: list[str] = flag(
        "agreement=0.95: also fail where the bound on answers as the teacher's is lower; agreement_of_groups=0.9: of "
        "any group",
        default=[],
        metavar="BOUND",
    )

    def run(self) -> int:
        """Check the export; status 1 if it isn't what it should be."""
        from ..evaluation.guarantee import guarantee_problems, least_of
        from ..export.export_folder import members_hint, student_in
        from ..export.facts import BENCHMARKS, GUARANTEE, read_facts
        from ..methods.formats import verify_export

        collect_again()
        least, folder = least_of(self.least), student_in(self.folder).folder
        report = verify_export(folder)
        problems = [*report.problems]
        if report.ok and least:
            measured = read_facts(folder).get(BENCHMARKS)
            found = measured.get(GUARANTEE) if isinstance(measured, dict) else None
            problems = list(guarantee_problems(found, least))
        for problem in problems:
            print(f"{self.folder}: {problem}{members_hint(self.folder)}", file=sys.stderr)
        if problems:
            return 1
        difference = f"largest relative difference of {report.compared} {report.max_relative_difference:.1e}"
        print(f"{self.folder}: all is well; {difference}")
        for note in report.notes:
            print(f"{self.folder}: {note}")
        if report.code_sha256:
            print(f"{self.folder}: its code is this package's own modelling file, sha256 {report.code_sha256}")
        return 0


@dataclass(kw_only=True)
class Push(Command):
    """Upload an export to the Hub in one commit; log in with `hf auth login` or set HF_TOKEN first."""

    example: ClassVar[str] = "homodistil push runs/my-student me/my-student --private --tag v1.0"
    folder: str = flag("export, or finished run", positional=True, metavar="FOLDER")
    repo_id: str = flag("user/name on the Hub; created if need be", positional=True, metavar="NAME")
    private: bool = flag("a new repository is private", default=False)
    revision: str | None = flag("branch to commit to (default: main)", default=None, metavar="BRANCH")
    tag: str | None = flag("name of this commit that stays, e.g. v1.0", default=None)
    card_tags: list[str] = flag("tags for the card, beside its own", default=[], metavar="WORD")
    message: str = flag("first line of the commit", default="Upload a HomoDistil student")
    dry_run: bool = flag("list the files with their sizes and print the card; nothing is sent", default=False)

    def run(self) -> int:
        """Upload, and print the commit's address."""
        from ..export.export_folder import exported_student
        from ..export.hub import push_export, tag_commit

        folder = exported_student(self.folder)
        if self.dry_run:
            from ..export.facts import CARD_FILE
            from ..export.hub import card_for, files_to_push

            sizes = files_to_push(folder)
            card = card_for(folder, self.repo_id, tags=self.card_tags, revision=self.revision)
            sizes |= {CARD_FILE: len(card.encode())}
            total = f"{sum(sizes.values()) / 1e6:,.1f} MB"
            print(f"nothing is sent; {len(sizes)} files, {total}, would go to {self.repo_id}:\n")
            print(*aligned_lines([[name, f"{size:,}"] for name, size in sizes.items()]), sep="\n")
            print(f"\n{CARD_FILE}:\n\n{card.rstrip()}")
            return 0
        commit = push_export(
            folder,
            self.repo_id,
            private=self.private or None,
            revision=self.revision,
            commit_message=self.message,
            tags=self.card_tags,
        )
        print(commit.commit_url)  # first: it stands, also where its tag is refused
        if self.tag:
            tag_commit(commit.repo_url.repo_id, self.tag, revision=commit.oid)
        return 0
