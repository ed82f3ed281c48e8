"""`homodistil push`: upload an export. `export/hub.py` makes the commit."""

from dataclasses import dataclass
from typing import ClassVar

from ..files.settings import flag
from .command import Command


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

    def run(self) -> int:
        """Upload, and print the commit's address."""
        from ..export.hub import push_export, tag_commit
        from ..export.student_in_folder import exported_student

        commit = push_export(
            exported_student(self.folder),
            self.repo_id,
            private=self.private or None,
            revision=self.revision,
            commit_message=self.message,
            tags=self.card_tags,
        )
        if self.tag:
            tag_commit(commit.repo_url.repo_id, self.tag, revision=commit.oid)
        print(commit.commit_url)
        return 0
