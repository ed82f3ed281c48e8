"""From a trainer to folders and the Hub: exports, what they tell about the run, and pushes without pickles.

Which student an export holds is decided in `outcome.py`, how a folder is written in `export.py`, how it is uploaded in
`hub.py`. Training is `trainer.py`'s business.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import PreTrainedTokenizerBase
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from .export import export_student
from .hub import push_export
from .measuring import MeasuringTrainer
from .outcome import check_finished, compacted_copy

logger = logging.getLogger(__name__)


class ExportingTrainer(MeasuringTrainer):
    """`MeasuringTrainer` whose student can be exported and pushed; subclasses count their bad steps."""

    hub_model_id: str
    num_bad_steps: int
    push_in_progress: PushInProgress | None = None

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

    def _write_export(self, folder: Path, format: str = "standard", *, allow_partial: bool = False) -> None:
        export_student(
            compacted_copy(self.pruner, format=format, allow_partial=allow_partial),
            folder,
            format,
            tokenizer=self.processing_class if isinstance(self.processing_class, PreTrainedTokenizerBase) else None,
            teacher=self.distillation.teacher.exact,
            facts=self.run_facts(),
            overwrite=True,
        )

    def run_facts(self) -> dict[str, dict[str, Any]]:
        """What an export tells about this run: all settings, how long it was, and the last evaluation.

        Returns:
            `dict`: `settings`, `training`, `evaluation`.
        """
        evaluations = [entry for entry in self.state.log_history if any(name.startswith("eval_") for name in entry)]
        timings = ("runtime", "per_second", "preparation_time")
        return {
            "settings": self.args.to_sanitized_dict(),
            "training": {
                "num_steps": self.state.global_step,
                "num_epochs": self.state.epoch,
                "num_bad_steps": self.num_bad_steps,
                **self.pruner.status(),
            },
            "evaluation": {
                name.removeprefix("eval_"): value
                for name, value in (evaluations[-1] if evaluations else {}).items()
                if name.startswith("eval_") and not name.endswith(timings)
            },
        }

    def push_to_hub(self, commit_message: str | None = "End of training", **kwargs: Any) -> Any:
        """Push the student as a standard export, under Trainer's own `hub_*` settings; no pickles.

        Args:
            commit_message: of the commit.
            kwargs: `token`, `revision` and `private`, as in `Trainer.push_to_hub`.

        Returns:
            What [`push_export`] returns, on the main process.
        """
        token = kwargs.get("token") or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=kwargs.get("private"))
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        return self._export_to_push(commit_message or "End of training", **kwargs)()

    def _export_to_push(self, commit_message: str, **kwargs: Any) -> Callable[[], str]:
        """Write what is to be pushed, and return what is left to do."""
        folder = Path(self.args.output_dir) / "student"
        self._write_export(folder)
        return partial(
            push_export,
            folder,
            self.hub_model_id,
            private=kwargs.get("private", self.args.hub_private_repo),
            token=kwargs.get("token") or self.args.hub_token,
            revision=kwargs.get("revision") or self.args.hub_revision,
            commit_message=commit_message,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Trainer would push its own checkpoint files, pickles included; like there, training goes on meanwhile.
        wanted = self.args.hub_strategy == HubStrategy.EVERY_SAVE and self._staging_dir is None
        if not (wanted and self.pruner.plan_reached and self.is_world_process_zero()):
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
            self._finish_current_push()
        push = self._export_to_push(f"Training in progress, step {self.state.global_step}")
        job = HfApi().run_as_future(push)
        job.add_done_callback(_log_failed_push)
        self.push_in_progress = PushInProgress([job])


def _log_failed_push(job: Future) -> None:
    if error := job.exception():
        logger.warning(
            "a push during training failed (%s: %s); the student is still on disk", type(error).__name__, error
        )
