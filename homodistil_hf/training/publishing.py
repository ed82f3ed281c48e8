"""Pushes to the Hub, under Trainer's own `hub_*` settings, also while training goes on; and resuming from the Hub.

A standard export is pushed once the plan is reached. With `hub_strategy="checkpoint"` the checkpoint is pushed too, to
`last-checkpoint/` as in stock Trainer. export/export_folder.py writes exports, export/hub.py uploads them.

A checkpoint becomes a folder of the repository in one commit, with a manifest of its own. It contains the optimizer's
state, which torch writes as pickles. Pickles are downloaded only to resume a run, and opened only after their digests
are checked, with `weights_only=True`. `training_args.bin`, which nothing opens, is not uploaded.
"""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import PushInProgress

from ..export.hub import commit_to
from ..files.checkpoints import MANIFEST_NAME, STAGING_NAME, manifest_problem
from ..files.folders import publish, remove_folder
from ..files.hub_errors import hub_errors, persistently
from ..files.inside import stays_inside
from ..files.messages import short_repr
from ..files.strict_json import is_int, read_json_object

logger = logging.getLogger(__name__)

Push = Callable[[], Any]
"""A push without arguments; it blocks until the Hub has the files."""
LAST_CHECKPOINT = "last-checkpoint"
"""Folder of the repository for the newest checkpoint; `transformers.Trainer` uses the same name."""

_ADDRESS = re.compile(r"hf://(?:models/)?([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+?)/?)?")
# It holds settings and folders of the other machine; no resumed run reads it.
_LEFT_BEHIND = "training_args.bin"


def push_aside(
    make_pushes: Callable[[], list[Push]], running: PushInProgress | None, *, waits: bool
) -> PushInProgress | None:
    """Start pushes that run while training goes on, one after the other.

    Args:
        make_pushes: writes the files and returns the pushes; not called if nothing is started.
        running: the pushes that were started before.
        waits: wait for earlier pushes that still run; else nothing new is started meanwhile.

    Returns:
        The pushes that are running now.
    """
    if running is not None and not running.is_done():
        if not waits:
            return running
        running.wait_until_done()
    try:
        pushes = make_pushes()
    except (OSError, ValueError) as error:
        _warn(error)  # a full disk, for instance: the next save tries again
        return running
    api = HfApi()  # runs them one after the other
    jobs = [api.run_as_future(push) for push in pushes]
    for job in jobs:
        job.add_done_callback(lambda ended: _warn(failure) if (failure := ended.exception()) else None)
    return PushInProgress(jobs)


def where_to_push(args: TrainingArguments) -> dict[str, Any]:
    """The run's token, branch and visibility, as pushes take them."""
    return {"token": args.hub_token, "revision": args.hub_revision, "private": args.hub_private_repo}


def _warn(error: BaseException) -> None:
    logger.warning("a push during training failed (%s: %s); the student is still on disk", type(error).__name__, error)


def parse_address(address: str) -> tuple[str, str | None, str]:
    """Read `hf://user/name[@revision][/folder]`, a value of `resume_from_checkpoint`: repository, revision, folder.

    A revision is a branch, tag or commit; None: the main branch. A ValueError refuses what is no such address.

    Example:
    ```python
    >>> parse_address("hf://me/student@v2")
    ('me/student', 'v2', 'last-checkpoint')

    ```
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address.split("/"):
        raise ValueError(
            f"resume_from_checkpoint={address!r} is no address on the Hub; expected "
            f"hf://user/name[@revision][/folder], e.g. hf://me/my-student or hf://me/my-student@main/{LAST_CHECKPOINT}"
        )
    repo_id, revision, folder = match.groups()
    return repo_id, unquote(revision) if revision else None, folder or LAST_CHECKPOINT


def push_checkpoint(
    folder: str | Path,
    repo_id: str,
    *,
    path_in_repo: str = LAST_CHECKPOINT,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> CommitInfo:
    """Upload a checkpoint in one commit: the folder on the Hub is the old one or the new one, never a mix.

    Args:
        folder: a complete `checkpoint-N`.
        repo_id: `user/name`; created if need be.
        path_in_repo: folder of the repository, replaced as a whole.
        private: visibility of a new repository; default: the organisation's.
        token: Hub token; default: the logged-in one.
        revision: branch to commit to, created if need be; default: the main one.

    Raises:
        ValueError: the checkpoint is incomplete or damaged.
        HubError: the Hub refused or can't be reached; the repository is as it was.
    """
    folder = Path(folder)
    # a damaged one would take the place of a good one
    if problem := manifest_problem(folder):
        raise ValueError(f"checkpoint={str(folder)!r} can't be pushed: {problem}; push another one")
    manifest = read_json_object(folder / MANIFEST_NAME, MANIFEST_NAME)
    # the manifest on the Hub lists what is uploaded, no more
    manifest["sha256"].pop(_LEFT_BEHIND, None)
    names = list(manifest["sha256"])

    def commit(api: HfApi, name: str) -> CommitInfo:
        additions = [CommitOperationAdd(f"{path_in_repo}/{path}", folder / path) for path in names]
        additions.append(
            CommitOperationAdd(f"{path_in_repo}/{MANIFEST_NAME}", json.dumps(manifest, indent=2).encode())
        )
        # files of an older checkpoint that this one lacks would make the folder a mix
        present = {
            path for path in api.list_repo_files(name, revision=revision) if path.startswith(f"{path_in_repo}/")
        }
        stale = present - {addition.path_in_repo for addition in additions}
        deletions = [CommitOperationDelete(path) for path in sorted(stale)]
        message = f"Training in progress, {folder.name}"
        return api.create_commit(name, [*additions, *deletions], commit_message=message, revision=revision)

    with hub_errors(f"repo_id={repo_id!r} can't take {folder.name}", token=token, remedy="It is still on disk"):
        return commit_to(repo_id, commit, private=private, token=token, revision=revision)


def check_address(address: str, *, token: str | None = None) -> tuple[str, str, str]:
    """Check that a checkpoint is there, before time is spent on anything else: its repository, commit and folder.

    Raises:
        ValueError: no such address, or no checkpoint there.
        HubError: the Hub refused or can't be reached.
    """
    repo_id, revision, folder = parse_address(address)
    with _fetch_errors(address, token):
        info = persistently(lambda: HfApi(token=token).model_info(repo_id, revision=revision))
    names = [file.rfilename for file in info.siblings or ()]
    if (manifest := f"{folder}/{MANIFEST_NAME}") not in names:
        raise ValueError(
            f"resume_from_checkpoint={address!r} holds no checkpoint ({manifest} is missing); push one with "
            "hub_strategy='checkpoint', or name another folder or revision"
        )
    # newer versions of huggingface_hub refuse such names too; 1.5 writes outside of the folder
    for name in names:
        if not stays_inside(name):
            raise ValueError(
                f"resume_from_checkpoint={address!r} holds a file whose name leads out of its folder, "
                f"{short_repr(name)}; name another repository"
            )
    return repo_id, str(info.sha), folder


def fetch_checkpoint(address: str, output_dir: str | Path, *, token: str | None = None) -> Path:
    """Download a checkpoint, verify it, and move it to `OUTPUT_DIR/checkpoint-N`.

    An interrupted download leaves no checkpoint. An equal checkpoint in `output_dir` is kept.

    Raises:
        ValueError: no such address, no checkpoint there, a damaged one, or another checkpoint of that step here.
        HubError: the Hub refused or can't be reached.
    """
    repo_id, commit, folder = check_address(address, token=token)
    with _fetch_errors(address, token):
        # Named after the commit, so that files of an earlier attempt are used only if they are of the same commit.
        if (staging := Path(output_dir) / STAGING_NAME).is_symlink():
            remove_folder(staging)
        aside = staging / f"hub-{commit}"
        settings: dict[str, Any] = {"allow_patterns": [f"{folder}/*"], "local_dir": aside, "token": token}
        persistently(lambda: snapshot_download(repo_id, revision=commit, **settings))
    staged = aside / folder
    if problem := manifest_problem(staged):
        raise ValueError(f"resume_from_checkpoint={address!r} can't be used: {problem}; name another revision")
    final = Path(output_dir) / f"checkpoint-{_step_of(staged, address)}"
    if not final.exists():
        publish(staged, final)
    elif _digests(final) != _digests(staged):
        raise ValueError(
            f"resume_from_checkpoint={address!r} is another {final.name} than the one in output_dir="
            f"{str(output_dir)!r}; name another output_dir, or move that folder away"
        )
    shutil.rmtree(Path(output_dir) / STAGING_NAME, ignore_errors=True)
    return final


def _step_of(folder: Path, address: str) -> int:
    try:
        # Leniently: Trainer writes NaN among the logs, such as the norm of a step that a gradient scaler skipped.
        step = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        step = None
    if not is_int(step) or step < 0:
        raise ValueError(
            f"resume_from_checkpoint={address!r} has no global_step in {TRAINER_STATE_NAME}; expected a checkpoint of "
            "one of this package's trainers"
        )
    return step


def _digests(folder: Path) -> dict[str, str] | None:
    """Digests of a complete checkpoint, without those of files that are not uploaded; None if it is not complete."""
    if manifest_problem(folder):
        return None
    digests = read_json_object(folder / MANIFEST_NAME, MANIFEST_NAME)["sha256"]
    return {name: digest for name, digest in digests.items() if name != _LEFT_BEHIND}


def _fetch_errors(address: str, token: str | None) -> Any:
    return hub_errors(f"resume_from_checkpoint={address!r} can't be fetched", token=token)
