"""How a student leaves its run: as an export, and to the Hub, while it trains too, without training waiting for it.

A standard export is pushed once the plan is reached, and with `hub_strategy="checkpoint"` the checkpoint too. How an
export is written, and how files travel, is not told here.
"""

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..export.export_folder import export_student
from ..export.facts import CARD_SECTION
from ..export.hub import ensure_repo, push_export
from .hub_checkpoints import LAST_CHECKPOINT, push_checkpoint

logger = logging.getLogger(__name__)

_PUSHING_NAME = ".pushing"
_WITH_CHECKPOINTS = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


class Publisher:
    """Exports and pushes of one run, under Trainer's own `hub_*` settings; for the main process of its trainer."""

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def write_export(self, folder: Path, format: str = "standard", *, allow_partial: bool = False) -> None:
        """Write the student to a folder; arguments as [`DistillationTrainer.export`]."""
        trainer = self.trainer
        tokenizer = trainer.processing_class
        export_student(
            trainer.dense_student(format=format, allow_partial=allow_partial),
            folder,
            format,
            tokenizer=tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None,
            teacher=trainer.distillation.teacher.exact,
            facts=self.run_facts(),
            overwrite=True,
        )

    def run_facts(self) -> dict[str, dict[str, Any]]:
        """What an export tells about this run: settings, length, evaluations, what the card says of the method."""
        trainer = self.trainer
        return {
            "settings": trainer.args.to_sanitized_dict(),
            "training": {
                "method": trainer.method,
                "num_steps": trainer.state.global_step,
                "num_epochs": trainer.state.epoch,
                **trainer.step_log.skipped(),
                **trainer.status(),
            },
            "evaluation": trainer.held_out_metrics,
            "teacher_evaluation": dict(trainer.teacher_evaluation),
            CARD_SECTION: dataclasses.asdict(trainer.card),
        }

    def create_repo(self, *, token: str | None, private: bool | None) -> str:
        """Make sure that the run's repository exists, and give its `user/name`; None: as the run's settings say."""
        args = self.trainer.args
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        private = args.hub_private_repo if private is None else private
        return ensure_repo(name, private=private, token=token or args.hub_token)

    def student_push(self, *, tags: str | Sequence[str] = (), **settings: Any) -> Callable[[], Any]:
        """Write what is to be pushed, and return the push; settings as [`push_export`], None: as the run's say."""
        folder = Path(self.trainer.args.output_dir) / "student"
        self.write_export(folder)
        given = {name: value for name, value in settings.items() if value is not None}
        tags = [tags] if isinstance(tags, str) else tags
        return partial(push_export, folder, self.trainer.hub_model_id, tags=tags, **self._where() | given)

    def push_aside(self, checkpoint: Path) -> PushInProgress | None:
        """Push a complete checkpoint and the student in it while training goes on; gives what is running now.

        While earlier pushes run nothing new is begun, unless `hub_always_push` waits for them.
        """
        running = self.trainer.push_in_progress
        if running is not None and not running.is_done():
            if not self.trainer.args.hub_always_push:
                return running
            running.wait_until_done()
        try:
            pushes = self._pushes_of(checkpoint)
        except (OSError, ValueError) as error:
            _warn(error)  # a full disk, for instance: what can't be pushed now may be at the next save
            return running
        api = HfApi()  # runs them one after the other
        jobs = [api.run_as_future(push) for push in pushes]
        for job in jobs:
            job.add_done_callback(_log_failed_push)
        return PushInProgress(jobs)

    def _pushes_of(self, checkpoint: Path) -> list[Callable[[], Any]]:
        trainer = self.trainer
        pushes: list[Callable[[], Any]] = []
        strategy = trainer.args.hub_strategy
        if strategy in _WITH_CHECKPOINTS:
            linked = _linked_aside(checkpoint)
            in_repo = LAST_CHECKPOINT if strategy == HubStrategy.CHECKPOINT else checkpoint.name
            pushes.append(
                partial(_push_and_remove, linked, trainer.hub_model_id, path_in_repo=in_repo, **self._where())
            )
        if trainer.is_finished:
            pushes.append(self.student_push(commit_message=f"Training in progress, step {trainer.state.global_step}"))
        return pushes

    def _where(self) -> dict[str, Any]:
        names = {"token": "hub_token", "revision": "hub_revision", "private": "hub_private_repo"}
        return {name: getattr(self.trainer.args, setting) for name, setting in names.items()}


def _linked_aside(checkpoint: Path) -> Path:
    """The same files under a name that `save_total_limit` doesn't know: a slow push outlives its checkpoint."""
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
