"""From a trainer to a folder, to the Hub and back: exports, pushes that training does not wait for, runs resumed.

What is pushed is a standard export, once the plan is reached, and with `hub_strategy="checkpoint"` the checkpoint too.
How an export is written, and how files travel, is not told here.
"""

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from huggingface_hub import HfApi
from transformers import PreTrainedTokenizerBase, TrainingArguments
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..export.card import MethodCard
from ..export.dense_student import check_finished, compacted_copy
from ..export.export_folder import export_student
from ..export.facts import CARD_SECTION
from ..export.hub import ensure_repo, push_export
from .evaluation_loop import MeasuringTrainer
from .hub_checkpoints import LAST_CHECKPOINT, fetch_checkpoint, is_hub_address, push_checkpoint
from .ranks import on_every_rank
from .resumable import Requested

logger = logging.getLogger(__name__)

_PUSHING_NAME = ".pushing"
_WITH_CHECKPOINTS = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


class PublishingTrainer(MeasuringTrainer):
    """`MeasuringTrainer` whose student can be exported, and pushed under Trainer's own `hub_*` settings.

    The token is in no file that it writes. Subclasses count their bad steps.
    """

    method: str
    """Name by which configs choose it; checkpoints and exports tell it."""
    card: MethodCard
    """What the model card says of the method."""
    method_settings: dict[str, Any] = {}
    """Settings of the method's own, beside those in `args`."""
    num_bad_steps: int
    num_skipped_tokens: int

    def export(self, folder: str | Path, format: str = "standard", *, allow_partial: bool = False) -> Path:
        """Write the student to a folder that loads with `from_pretrained`; see [`export_student`].

        To be called on all ranks; the main process writes.

        Args:
            folder: where to; an earlier export there is replaced.
            format: `"standard"` (stock BERT) or `"compact"`.
            allow_partial: also export a student that has not reached its plan, at the nearest possible widths.

        Returns:
            `Path`: the folder.

        Raises:
            ValueError: the plan has not been reached, or the folder holds something else.
        """
        check_finished(self.pruner, allow_partial=allow_partial)  # on all ranks, or some would wait for ever
        if self.is_world_process_zero():
            self._write_export(Path(folder), format, allow_partial=allow_partial)
        self.accelerator.wait_for_everyone()
        return Path(folder)

    def _write_export(
        self,
        folder: Path,
        format: str = "standard",
        *,
        allow_partial: bool = False,
        training: Mapping[str, Any] | None = None,
    ) -> None:
        facts = self.run_facts()
        facts["training"] |= training or {}
        export_student(
            compacted_copy(self.pruner, format=format, allow_partial=allow_partial),
            folder,
            format,
            tokenizer=self.processing_class if isinstance(self.processing_class, PreTrainedTokenizerBase) else None,
            teacher=self.distillation.teacher.exact,
            facts=facts,
            overwrite=True,
        )

    def run_facts(self) -> dict[str, dict[str, Any]]:
        """What an export tells about this run: all settings, how long it was, and the last evaluation.

        Returns:
            `dict`: `settings`, `training`, `evaluation`, `teacher_evaluation`, and what the card says of the method.
        """
        return {
            "settings": self.args.to_sanitized_dict() | dict(self.method_settings),
            "training": {
                "method": self.method,
                "num_steps": self.state.global_step,
                "num_epochs": self.state.epoch,
                "num_bad_steps": self.num_bad_steps,
                "num_skipped_tokens": self.num_skipped_tokens,
                **self.pruner.status(),
            },
            "evaluation": self.held_out_metrics,
            "teacher_evaluation": dict(self.teacher_evaluation),
            CARD_SECTION: dataclasses.asdict(self.card),
        }

    # The Hub

    hub_model_id: str
    push_in_progress: PushInProgress | None = None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository of the run, on the main process.

        Args:
            token: default: `hub_token`.
            private: default: `hub_private_repo`.

        Raises:
            HubError: the Hub refused or can't be reached.
        """
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        private = self.args.hub_private_repo if private is None else private
        self.hub_model_id = ensure_repo(name, private=private, token=token or self.args.hub_token)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        tags: str | Sequence[str] = (),
    ) -> Any:
        """Push the student as a standard export, in one commit and without pickles; as `Trainer.push_to_hub`.

        Args:
            commit_message: of the commit.
            blocking: wait for the end of it.
            token: default: `hub_token`, else the logged-in one.
            revision: branch; default: `hub_revision`, else the main one.
            private: visibility of a new repository; default: `hub_private_repo`.
            tags: words for the card's header, beside its own.

        Returns:
            [`~huggingface_hub.CommitInfo`], or its `Future` with `blocking=False`; None on all but the main process.

        Raises:
            ValueError: the student has not reached its plan.
            HubError: the Hub refused or can't be reached; the student is in `OUTPUT_DIR/student`.
        """
        check_finished(self.pruner, allow_partial=False)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        push = self._export_to_push(
            commit_message=commit_message or "End of training",
            token=token or self.args.hub_token,
            revision=revision or self.args.hub_revision,
            private=self.args.hub_private_repo if private is None else private,
            tags=[tags] if isinstance(tags, str) else tags,
        )
        return push() if blocking else HfApi().run_as_future(push)

    def _export_to_push(self, **settings: Any) -> Callable[[], str]:
        """Write what is to be pushed, and return what is left to do."""
        folder = Path(self.args.output_dir) / "student"
        self._write_export(folder)
        return partial(push_export, folder, self.hub_model_id, **settings)

    # Pushes during training

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Trainer would push its own files as they lie there; like there, training goes on meanwhile.
        is_wanted = self.args.hub_strategy != HubStrategy.END and self._staging_dir is None
        if not (is_wanted and self.is_world_process_zero()):
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
            self._finish_current_push()
        try:
            pushes = self._pushes_of(Path(checkpoint_folder))
        except (OSError, ValueError) as error:
            _warn(error)  # a full disk, for instance: what can't be pushed now may be at the next save
            return
        api = HfApi()  # runs them one after the other
        jobs = [api.run_as_future(push) for push in pushes]
        for job in jobs:
            job.add_done_callback(_log_failed_push)
        self.push_in_progress = PushInProgress(jobs)

    def _pushes_of(self, checkpoint: Path) -> list[Callable[[], Any]]:
        where = {
            "token": self.args.hub_token,
            "revision": self.args.hub_revision,
            "private": self.args.hub_private_repo,
        }
        pushes: list[Callable[[], Any]] = []
        if self.args.hub_strategy in _WITH_CHECKPOINTS:
            linked = _linked_aside(checkpoint)
            in_repo = LAST_CHECKPOINT if self.args.hub_strategy == HubStrategy.CHECKPOINT else checkpoint.name
            pushes.append(partial(_push_and_remove, linked, self.hub_model_id, path_in_repo=in_repo, **where))
        if self.pruner.plan_reached:
            message = f"Training in progress, step {self.state.global_step}"
            pushes.append(self._export_to_push(commit_message=message, **where))
        return pushes

    # Resuming

    def _resolve_checkpoint(self, requested: Requested) -> str | None:
        if is_hub_address(requested):
            requested = self._fetched(str(requested))
        return super()._resolve_checkpoint(requested)

    def _fetched(self, address: str) -> str:
        def fetch() -> str | None:
            if not self.args.should_save:
                return None
            return str(fetch_checkpoint(address, self.args.output_dir, token=self.args.hub_token))

        folder: list[Any] = [on_every_rank(fetch)]
        broadcast_object_list(folder)
        return folder[0]

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with _without_token(self.args):  # else it would be in training_args.bin
            super()._save(output_dir, state_dict)


@contextmanager
def _without_token(args: TrainingArguments) -> Iterator[None]:
    token, args.hub_token = args.hub_token, None
    try:
        yield
    finally:
        args.hub_token = token


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
