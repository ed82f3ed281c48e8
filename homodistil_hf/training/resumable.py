"""A `Trainer` whose checkpoints are complete or absent, and whose resumed runs log what uninterrupted ones log.

Nothing here knows of pruning: subclasses say what else belongs into a checkpoint (`write_state`) and how it comes back
(`read_state`).
"""

import logging
import os
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate.data_loader import DataLoaderAdapter
from torch import nn
from transformers import Trainer, TrainerControl
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from ..files.checkpoints import (
    STAGING_NAME,
    VerifiedCheckpoint,
    check_manifest,
    last_checkpoint,
    rotate,
    sorted_checkpoints,
    write_manifest,
)
from ..files.folders import check_archives, naming_the_file, publish
from .sigterm import StopRequest, start_worker

logger = logging.getLogger(__name__)

Requested: TypeAlias = str | bool | VerifiedCheckpoint | None
"""What `train` may be asked to go on with."""

_LOG_STATE = ("_total_loss_scalar", "_globalstep_last_logged")


class ResumableTrainer(Trainer):
    """`Trainer` with staged checkpoints, a manifest in each, and running averages that survive a resume."""

    _staging_dir: str | None = None
    resumed_logs: Mapping[str, Any] | None = None
    control: TrainerControl
    stop_request = StopRequest()
    is_stopping = False
    _last_saved_step = -1

    @abstractmethod
    def write_state(self, folder: Path, logs: Mapping[str, Any]) -> None:
        """Add a subclass's own state to a checkpoint; called on the saving process, before the manifest.

        Args:
            folder: the staged checkpoint.
            logs: what `log_state` gave.
        """

    @abstractmethod
    def read_state(self, folder: Path) -> Mapping[str, Any]:
        """Bring model and own state back from a checkpoint; called before the optimizer exists.

        Args:
            folder: a checkpoint whose manifest has been checked.

        Returns:
            `dict`: what `log_state` gave when it was saved.
        """

    def train(self, resume_from_checkpoint: Requested = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on where a checkpoint stopped.

        At SIGTERM the step is finished, a checkpoint saved, and the process ends with status 143.

        Args:
            resume_from_checkpoint: a folder; True or `"last"` for the newest one in `output_dir`; a
                [`VerifiedCheckpoint`]; None to start anew.
            args: as in `Trainer.train`.
            kwargs: as in `Trainer.train`.

        Returns:
            [`~transformers.trainer_utils.TrainOutput`].

        Raises:
            ValueError: no checkpoint, a damaged one, or one that was saved without the optimizer.
        """
        folder = self._resolve_checkpoint(resume_from_checkpoint)
        if folder is None:
            self.resumed_logs = None
        else:  # before Trainer opens any of its files
            self._verified(folder, resume_from_checkpoint)
        self.is_stopping, self._last_saved_step = False, -1
        with StopRequest() as self.stop_request:
            result = super().train(folder, *args, **kwargs)
        if self.stop_request.is_made:
            self.stop_request.leave()
        return result

    # Running averages

    def log_state(self) -> dict[str, Any]:
        """Running averages, exact, as plain numbers; called on all ranks.

        Returns:
            `dict` of JSON values; subclasses add theirs.
        """
        return {"_tr_loss": self.of_every_rank(self._tr_loss)} | {name: getattr(self, name) for name in _LOG_STATE}

    def restore_log_state(self) -> None:
        """Put running averages back; to be called once training has begun, when Trainer has reset its own."""
        if self.resumed_logs is None:
            return
        losses = self.resumed_logs["_tr_loss"]
        self._tr_loss.fill_(self.own_value(losses, otherwise=sum(losses) / len(losses)))
        for name in _LOG_STATE:
            setattr(self, name, self.resumed_logs[name])
        # From transformers 5.19 on the mean loss of a run counts from here; our running sum is that of all its steps.
        self._initial_global_step = 0

    def of_every_rank(self, value: torch.Tensor) -> list[float]:
        """Gather one number of every rank.

        Args:
            value: scalar on this rank's device.

        Returns:
            `list[float]`, by rank.
        """
        return self.accelerator.gather(value.detach().reshape(1)).tolist()

    def own_value(self, values: list[float], *, otherwise: float) -> float:
        """This rank's share of what `of_every_rank` gave when a checkpoint was saved.

        Args:
            values: one a rank of the run that saved them.
            otherwise: what to take where the number of ranks has changed.

        Returns:
            `float`.
        """
        return values[self.args.process_index] if len(values) == self.args.world_size else otherwise

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log; rates count the steps of this session only, whatever part of the run was resumed."""
        if self.resumed_logs is not None and "train_runtime" in logs:
            share = 1 - self.resumed_logs["global_step"] / max(1, self.state.global_step)
            logs |= {name: share * value for name, value in logs.items() if name.endswith("_per_second")}
        super().log(logs, start_time)

    # Saving

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(super()._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        logs = self.log_state() | {"global_step": self.state.global_step}
        with self._explaining_failures(run_dir / name), self._staging(run_dir / STAGING_NAME) as staging:
            with naming_the_file(staging):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            self._name_best_checkpoint(staging / name, run_dir / name)
            if self.args.should_save:
                check_archives(staging / name)
                self.write_state(staging / name, logs)
                write_manifest(staging / name)
                publish(staging / name, run_dir / name)
        if self.args.should_save:
            keep = [run_dir / name, *self.checkpoints_to_keep()]
            rotate(run_dir, limit=self.args.save_total_limit, keep=keep)
        self.accelerator.wait_for_everyone()
        self._last_saved_step = self.state.global_step
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))

    def checkpoints_to_keep(self) -> list[Path]:
        """Checkpoints that `save_total_limit` must not remove beside the one just saved; subclasses add theirs."""
        best = self.state.best_model_checkpoint
        return [] if best is None else [Path(best)]

    @contextmanager
    def _explaining_failures(self, checkpoint: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno is None:
                raise
            good = last_checkpoint(checkpoint.parent)
            remains = f"the last good checkpoint is {good}" if good else "there is no earlier one"
            raise OSError(
                error.errno,
                f"{error.strerror}; {checkpoint.name} was not saved, {remains}. Make room or choose another "
                "output_dir, then go on with resume_from_checkpoint='last'",
                error.filename,
            ) from error

    @contextmanager
    def _staging(self, folder: Path) -> Iterator[Path]:
        """Trainer saves below `folder` inside; what is left there afterwards is removed, after a failure too."""
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._staging_dir = str(folder)
        try:
            yield folder
        finally:
            self._staging_dir = None
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        # With one checkpoint allowed, Trainer keeps the best one only, and removes the others file by file.
        best = self.state.best_model_checkpoint
        if self.args.should_save and self.args.save_total_limit == 1 and best is not None:
            rotate(super()._get_output_dir(trial), limit=1, keep=[Path(best)])
        return super()._finalize_training(trial, *args, **kwargs)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging_dir is None else self._staging_dir

    def _name_best_checkpoint(self, staged: Path, final: Path) -> None:
        # Trainer looked for the best checkpoint in the staging folder; it will be where this one goes.
        if self.state.best_model_checkpoint != str(staged):
            return
        self.state.best_model_checkpoint = str(final)
        if self.args.should_save:
            self.state.save_to_json(os.path.join(staged, TRAINER_STATE_NAME))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging_dir is None:
            super()._push_from_checkpoint(checkpoint_folder)

    # Stopping

    def get_train_dataloader(self) -> Any:
        """Trainer's, with workers that leave SIGTERM to their trainer."""
        loader = super().get_train_dataloader()
        # Accelerate hands attributes of the loader that it wraps out, but not in.
        inner = loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
        if self.args.dataloader_num_workers:
            inner.worker_init_fn = partial(start_worker, inner.worker_init_fn)
        return loader

    def agree_to_stop(self, num_asked: torch.Tensor) -> None:
        """At the end of a step: note whether any rank got SIGTERM, so that all save a checkpoint and leave.

        Args:
            num_asked: number of ranks that had got it, the same on all of them; not looked at in a single process.
        """
        self.is_stopping = self.stop_request.is_made if self.args.world_size == 1 else bool(num_asked)

    def _maybe_log_save_evaluate(
        self, tr_loss: Any, grad_norm: Any, model: nn.Module, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if not self.is_stopping:
            return
        if self._last_saved_step != self.state.global_step:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        step = self.state.global_step
        logger.warning("SIGTERM: checkpoint-%d is saved; go on with resume_from_checkpoint='last'", step)
        self.stop_request.leave()

    # Loading

    def _resolve_checkpoint(self, requested: Requested) -> str | None:
        if requested is None or requested is False:
            return None
        if isinstance(requested, VerifiedCheckpoint):
            return str(requested.folder)
        if requested is not True and requested != "last":
            return str(requested)
        folders = sorted_checkpoints(self.args.output_dir)
        if not folders:
            raise ValueError(
                f"resume_from_checkpoint={requested!r} asks for the last checkpoint, but output_dir="
                f"{self.args.output_dir!r} has none; start without it, or name a checkpoint folder"
            )
        return str(folders[0])

    def _verified(self, folder: str, requested: Requested) -> VerifiedCheckpoint:
        if isinstance(requested, VerifiedCheckpoint) and requested.folder == Path(folder):
            return requested
        return check_manifest(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
            if not os.path.isfile(os.path.join(resume_from_checkpoint, name)):
                raise ValueError(
                    f"resume_from_checkpoint={resume_from_checkpoint!r} has no {name}, as it was saved with "
                    "save_only_model=True; it can be exported, but only a full checkpoint can be resumed"
                )
        self.resumed_logs = self.read_state(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        check_manifest(self.state.best_model_checkpoint)
        self.read_state(Path(self.state.best_model_checkpoint))

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, *args: Any, **kwargs: Any
    ) -> tuple[int, int]:
        epochs, batches = super()._init_training_state(max_steps, num_update_steps_per_epoch, *args, **kwargs)
        if self.resumed_logs is None or has_length(self.train_dataset):
            return epochs, batches
        # How long a stream is shows when it ends, so Trainer counts all its passes as one. The epoch does not:
        # it is the number of whole passes, and the batches of this one as a share of those of the whole run.
        epochs = int(self.state.epoch)
        num_batches = num_update_steps_per_epoch * self.args.gradient_accumulation_steps
        return epochs, round((self.state.epoch - epochs) * num_batches)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Trainer looks whether a run is done after a step only: a finished one that is resumed would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

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
                            f"optimizer state {name} of shape {tuple(value.shape)} in {checkpoint} doesn't fit a "
                            f"parameter of shape {tuple(parameter.shape)}; resume with the settings that the run was "
                            "started with"
                        )
