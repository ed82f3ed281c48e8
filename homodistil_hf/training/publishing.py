"""Pushes to the Hub, under Trainer's own `hub_*` settings, also while training goes on.

A standard export is pushed once the plan is reached, and with `hub_strategy="checkpoint"` the checkpoint too.
`export/export_folder.py` writes exports; `export/hub.py` and `hub_checkpoints.py` upload files.
"""

import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..export.hub import ensure_repo, push_export
from .hub_checkpoints import LAST_CHECKPOINT, push_checkpoint

logger = logging.getLogger(__name__)

Push = Callable[[], Any]
"""A push without arguments; it blocks until the Hub has the files."""
_PUSHING_NAME = ".pushing"
_WITH_CHECKPOINTS = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


def create_repo(args: TrainingArguments, *, token: str | None, private: bool | None) -> str:
    """Create the run's repository if it is missing, and return its `user/name`; None means the run's setting."""
    name = args.hub_model_id or Path(args.output_dir or "").absolute().name
    private = args.hub_private_repo if private is None else private
    return ensure_repo(name, private=private, token=token or args.hub_token)


def student_push(
    folder: Path, repo_id: str, args: TrainingArguments, *, tags: str | Sequence[str] = (), **settings: Any
) -> Push:
    """The push of an export, without doing it; settings as [`push_export`], None means the run's setting."""
    given = {name: value for name, value in settings.items() if value is not None}
    tags = [tags] if isinstance(tags, str) else tags
    return partial(push_export, folder, repo_id, tags=tags, **_where(args) | given)


def checkpoint_pushes(checkpoint: Path, repo_id: str, args: TrainingArguments) -> list[Push]:
    """The push of a complete checkpoint, without doing it; none if `hub_strategy` pushes no checkpoints."""
    if args.hub_strategy not in _WITH_CHECKPOINTS:
        return []
    in_repo = LAST_CHECKPOINT if args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
    return [partial(_push_and_remove, _linked_aside(checkpoint), repo_id, path_in_repo=in_repo, **_where(args))]


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
        job.add_done_callback(_log_failed_push)
    return PushInProgress(jobs)


def _where(args: TrainingArguments) -> dict[str, Any]:
    return {"token": args.hub_token, "revision": args.hub_revision, "private": args.hub_private_repo}


def _linked_aside(checkpoint: Path) -> Path:
    """The same files under a name that `save_total_limit` doesn't remove: a slow push may outlive its checkpoint."""
    aside = checkpoint.parent / _PUSHING_NAME
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(checkpoint, aside / checkpoint.name, copy_function=_link_or_copy)
    return aside / checkpoint.name


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _push_and_remove(folder: Path, repo_id: str, **settings: Any) -> None:
    try:
        push_checkpoint(folder, repo_id, **settings)
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)


def _log_failed_push(job: Future) -> None:
    if error := job.exception():
        _warn(error)


def _warn(error: BaseException) -> None:
    logger.warning("a push during training failed (%s: %s); the student is still on disk", type(error).__name__, error)
