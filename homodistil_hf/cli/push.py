"""`homodistil push`: upload an export."""

import argparse
from typing import Any

from .parsing import add_command


def add_push(commands: Any) -> None:
    """Add the command.

    Args:
        commands: what `add_subparsers` made.
    """
    parser = add_command(
        commands,
        "push",
        _push,
        help="upload an export to the Hub in one commit; log in with `hf auth login` or set HF_TOKEN first",
        example="homodistil push runs/my-student me/my-student --private --tag v1.0",
    )
    parser.add_argument("folder", metavar="FOLDER", help="export, or finished run")
    parser.add_argument("repo_id", metavar="NAME", help="user/name on the Hub; created if need be")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to commit to (default: main)")
    parser.add_argument("--tag", help="name of this commit that stays, e.g. v1.0")
    parser.add_argument("--card_tags", nargs="+", default=(), metavar="WORD", help="tags for the card, beside its own")
    parser.add_argument("--message", default="Upload a HomoDistil student", help="first line of the commit")


def _push(flags: argparse.Namespace) -> int:
    from ..export.hub import push_export, tag_commit
    from ..export.student_in_folder import exported_student

    commit = push_export(
        exported_student(flags.folder),
        flags.repo_id,
        private=flags.private or None,
        revision=flags.revision,
        commit_message=flags.message,
        tags=flags.card_tags,
    )
    if flags.tag:
        tag_commit(commit.repo_url.repo_id, flags.tag, revision=commit.oid)
    print(commit.commit_url)
    return 0
