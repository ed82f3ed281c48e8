"""A Trainer whose checkpoints are complete or absent, and whose resumed runs log what uninterrupted ones log.

Nothing here knows of pruning: subclasses say what else belongs into a checkpoint (`write_state`) and how it comes back
(`read_state`).
"""

import os
import shutil
from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from .checkpoint import (
    STAGING_NAME,
    check_manifest,
    manifest_problem,
    publish,
    sorted_checkpoints,
    write_manifest,
)

_LOG_STATE = ("_total_loss_scalar", "_globalstep_last_logged")


class ResumableTrainer(Trainer):
    """`Trainer` with staged checkpoints, a manifest in each, and running averages that survive a resume."""

    _staging_dir: str | None = None
    resumed_logs: dict[str, Any] | None = None

    @abstractmethod
    def write_state(self, folder: Path) -> None:
        """Add a subclass's own state to a checkpoint; called on the saving process, before the manifest.

        Args:
            folder: the staged checkpoint.
        """

    @abstractmethod
    def read_state(self, folder: Path) -> dict[str, Any]:
        """Bring model and own state back from a checkpoint; called before the optimizer exists.

        Args:
            folder: a checkpoint whose manifest has been checked.

        Returns:
            `dict`: what `log_state` gave when it was saved.
        """

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on where a checkpoint stopped.

        Args:
            resume_from_checkpoint: a folder; True or `"last"` for the newest complete one in `output_dir`; None to
                start anew.
            args: as in `Trainer.train`.
            kwargs: as in `Trainer.train`.

        Returns:
            [`~transformers.trainer_utils.TrainOutput`].

        Raises:
            ValueError: no complete checkpoint, or a damaged one.
        """
        folder = self._resolve_checkpoint(resume_from_checkpoint)
        if folder is None:
            self.resumed_logs = None
        return super().train(folder, *args, **kwargs)

    def log_state(self) -> dict[str, Any]:
        """Running averages, exact, as plain numbers.

        Returns:
            `dict` of JSON values; subclasses add theirs.
        """
        return {"_tr_loss": float(self._tr_loss)} | {name: getattr(self, name) for name in _LOG_STATE}

    def restore_log_state(self) -> None:
        """Put running averages back; to be called once training has begun, when Trainer has reset its own."""
        if self.resumed_logs is None:
            return
        self._tr_loss.fill_(self.resumed_logs["_tr_loss"])
        for name in _LOG_STATE:
            setattr(self, name, self.resumed_logs[name])

    def _resolve_checkpoint(self, requested: str | bool | None) -> str | None:
        if requested is None or requested is False:
            return None
        if requested is True or requested == "last":
            return self._newest_checkpoint()
        check_manifest(requested)
        return str(requested)

    def _newest_checkpoint(self) -> str:
        folders = sorted_checkpoints(self.args.output_dir)
        if not folders:
            raise ValueError(
                f"resume_from_checkpoint asks for the last checkpoint, but output_dir={self.args.output_dir!r} has none; "
                "start without it, or name a checkpoint folder"
            )
        if manifest_problem(folders[0]) is not None:
            check_manifest(folders[0])
        return str(folders[0])

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging_dir is None else self._staging_dir

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = run_dir / STAGING_NAME
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._staging_dir = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging_dir = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self._finish_checkpoint(staging / name, run_dir / name)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))

    def _finish_checkpoint(self, staged: Path, final: Path) -> None:
        # Trainer looked for the best checkpoint in the staging folder; it will be where this one goes.
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(final)
            self.state.save_to_json(os.path.join(staged, TRAINER_STATE_NAME))
        self.write_state(staged)
        write_manifest(staged)
        publish(staged, final)
        shutil.rmtree(staged.parent, ignore_errors=True)
        rotate_checkpoints(
            output_dir=str(final.parent),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging_dir is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        check_manifest(resume_from_checkpoint)
        self.resumed_logs = self.read_state(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        check_manifest(self.state.best_model_checkpoint)
        self.read_state(Path(self.state.best_model_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        # load_state_dict accepts moments of any shape silently.
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                for name, value in self.optimizer.state.get(parameter, {}).items():
                    if torch.is_tensor(value) and value.dim() and value.shape != parameter.shape:
                        raise ValueError(
                            f"optimizer state {name} of shape {tuple(value.shape)} in {checkpoint} doesn't fit a parameter "
                            f"of shape {tuple(parameter.shape)}; resume with the settings that the run was started with"
                        )
