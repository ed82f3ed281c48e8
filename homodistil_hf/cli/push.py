"""`homodistil push`: upload an export. How a commit to the Hub is made isn't here."""

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(kw_only=True)
class Push:
    """Upload an export to the Hub in one commit; log in with `hf auth login` or set HF_TOKEN first."""

    example: ClassVar[str] = "homodistil push runs/my-student me/my-student --private --tag v1.0"
    folder: str = field(metadata={"positional": True, "metavar": "FOLDER", "help": "export, or finished run"})
    repo_id: str = field(
        metadata={"positional": True, "metavar": "NAME", "help": "user/name on the Hub; created if need be"}
    )
    private: bool = field(default=False, metadata={"help": "a new repository is private"})
    revision: str | None = field(
        default=None, metadata={"metavar": "BRANCH", "help": "branch to commit to (default: main)"}
    )
    tag: str | None = field(default=None, metadata={"help": "name of this commit that stays, e.g. v1.0"})
    card_tags: list[str] = field(
        default_factory=list, metadata={"metavar": "WORD", "help": "tags for the card, beside its own"}
    )
    message: str = field(default="Upload a HomoDistil student", metadata={"help": "first line of the commit"})

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
