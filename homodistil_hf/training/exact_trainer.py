"""A `transformers.Trainer` whose resumed runs equal uninterrupted ones to the last bit.

This file holds every override of a private method of Trainer; the first line of each gives the reason. So a new
version of transformers can break this file and no other. There is no teacher, no loss and no pruning here. A subclass
gives its `method`, the counts of a step (`count`), its loss (`compute_loss`, which ends in `scale_and_log`), and the
content of checkpoints (`state_to_save`, `tensors_to_save`, `read_state`).

`run_folder.py` writes and verifies checkpoints, `step_log.py` averages the terms of the loss, `sigterm.py` notes
SIGTERM, and `ranks.py` and `streams.py` make rows and ranks agree.
"""

import copy
import itertools
import logging
import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any, ClassVar

import datasets
import torch
from accelerate.data_loader import DataLoaderAdapter
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast_object_list, is_compiled_module
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import IterableDataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, BestRun, HPSearchBackend, has_length
from typing_extensions import Self

from ..data.masking import SeededMasks
from ..data.shards import num_lanes_of
from ..files.checkpoints import SCORES_FILE, check_manifest, last_checkpoint
from ..files.folders import naming_the_file
from ..files.messages import nearest_valid, short_repr
from ..files.strict_json import read_json_object, write_json
from ..models.conversion import as_stock_reads_it
from ..models.equality import tensors_digest
from ..models.saved_student import exact_queries, first_nonfinite_tensor, save_queries
from ..training_args import ExactArguments
from .evaluation_loop import evaluations_in, gathered
from .lowered import LoweredMatrices
from .progress import ShortProgress
from .ranks import check_same_rows, lay_out_buckets, on_every_rank
from .row_checks import check_kind, checked_batch, rows_digest
from .run_folder import (
    TEACHER_SHA256,
    Requested,
    RunFolder,
    check_same_run,
    folder_claimed,
)
from .sigterm import StopRequest, start_worker
from .step_log import StepLog

logger = logging.getLogger(__name__)

_ROWS = "per_device_train_batch_size × gradient_accumulation_steps × ranks"
PLACE, IS_BEHIND = "in_stream", "is_behind_pass"
"""Keys of a checkpoint's state: whole passes over a stream, and steps of the present one; and whether what follows a
pass, such as an evaluation, was done at its step."""
_CUT = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""Settings by which a step of the same rows is cut into batches."""
_OF_BEST = ("metric_for_best_model", "greater_is_better")
_FOLLOWING_METRICS = ("ReduceLROnPlateau", "GreedyLR")


class ExactTrainer(Trainer):
    """Trains in whole steps, skips steps whose gradients are not finite, and resumes bit for bit.

    Arguments are those of `transformers.Trainer`; `args` is an [`ExactArguments`].
    """

    method: ClassVar[str]
    """Name of the method, which checkpoints hold; a checkpoint of another method is refused."""
    args: ExactArguments
    state_file: ClassVar[str] = "run_state.json"
    """Name of the file in a checkpoint that holds `state_to_save`."""

    model: PreTrainedModel | Any
    lr_scheduler: Any
    data_collator: Any
    model_wrapped: nn.Module
    made_with: Mapping[str, Any] = {}
    """The constructor's arguments, from which a search makes the trainer again for each trial; empty: it can't."""
    called_with: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
    """Those of a subclass that a user wrote, by place and by name."""
    stop_request = StopRequest()
    is_stopping = False
    num_stop_requests: torch.Tensor | float = 0
    has_started = False
    resumed_logs: Mapping[str, Any] | None = None
    resumed_place: tuple[int, int] | None = None
    """Where a checkpoint stands in the rows: whole passes, and steps of the present one."""
    resumed_behind = True
    resumed_from: str | None = None
    saved_at: int | None = None
    passed_at: int | None = None
    """Steps at the last checkpoint, and at the last end of a pass."""
    place = 0, 0
    num_pass_steps: int | None = None
    """Steps of a pass over a table; None for a stream."""
    epoch_number = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember how the outermost constructor is called, for a search."""
        trainer = super().__new__(cls)
        trainer.called_with = args, kwargs
        return trainer

    def __init__(self, model: Any, args: Any, **kwargs: Any):
        if (loss := kwargs.get("compute_loss_func")) is not None:
            raise ValueError(f"compute_loss_func={loss!r} would replace {type(self).__name__}'s loss; leave it out")
        args.pin_data_order()
        self.run_folder = RunFolder(args)
        super().__init__(model, args, **kwargs)
        # The loss is a share of the whole step's, so Trainer must not divide it by the number of micro-batches.
        self.loss_is_scaled_for_ga = True
        self.step_log = StepLog()
        self._lowered: LoweredMatrices | None = None
        self._length_samplers = weakref.WeakSet[Any]()
        # First in line, so that users' callbacks see the step as it ends.
        self.callback_handler.callbacks.insert(0, _Moments(self))
        if not args.verbose:
            self.remove_callback(PrinterCallback if args.disable_tqdm else ProgressCallback)
            self.add_callback(ShortProgress(lambda: self.size_in_words))

    # What a subclass decides

    @property
    def is_finished(self) -> bool:
        """Whether the model has its final shape; only checkpoints of such a model can be the best one."""
        return True

    @property
    def size_in_words(self) -> str:
        """How much smaller the model has become, for lines of progress; empty where it doesn't shrink."""
        return ""

    @property
    def frozen_teacher(self) -> nn.Module | None:
        """What the model learns from, if it is another one; a run is resumed with its weights alone."""
        return None

    def has_loaded_best(self) -> None:
        """Called when the run has ended and its best model is loaded in place of its last."""

    def start_student(self) -> None:
        """Make the model of a new run ready for its first step; a resumed run gets it from the checkpoint."""

    def prepare_batch(self, batch: Any) -> Any:
        """Check one micro-batch and return it as `count` and `compute_loss` take it."""
        return checked_batch(batch, self.model.config)

    def count(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the terms of the loss are averaged over, in one batch: int64 of shape `(n,)`, e.g. rows and tokens.

        `compute_loss` gets the sum over all micro-batches and ranks of a step as `num_items_in_batch`.
        """
        raise NotImplementedError

    def evaluation_collator(self) -> Any:
        """The collator of evaluations: the training's, with the masks of epoch 0 if it draws masks."""
        if not isinstance(self.data_collator, SeededMasks):
            return self.data_collator
        collator = copy.deepcopy(self.data_collator)
        collator.set_epoch(0)
        return collator

    def smallest_inputs(self) -> dict[str, torch.Tensor]:
        """One short row that the model can read; see [`lay_out_buckets`]."""
        return {"input_ids": torch.zeros(1, 1, dtype=torch.int64, device=self.args.device)}

    def status(self) -> dict[str, float]:
        """Values of the model's size that training logs report beside the terms of the loss; none by default."""
        return {}

    # One optimizer step

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Fetch the micro-batches of one step, and sum what they count over all of them and all ranks.

        A finished run that is resumed gets no batch.
        """
        is_done = 0 < self.state.max_steps <= self.state.global_step and self.is_in_train
        batches = [] if is_done else self.whole_step(epoch_iterator, num_batches)
        batches = batches if is_done else self.of_all_ranks(batches)
        if not batches:
            self.control.should_epoch_stop = True  # else Trainer would ask as often as a run has steps
            return [], None
        counts = reduce(torch.add, (self.count(batch).to(device) for batch in batches))
        # One more number travels along, so that all ranks hear of a SIGTERM without a message of its own.
        is_asked = counts.new_full((1,), int(self.stop_request.is_made))
        totals = self.accelerator.reduce(torch.cat([counts, is_asked]))
        self.num_stop_requests = totals[-1]
        return batches, totals[:-1]

    def whole_step(self, batches: Iterator[Any], num_batches: int) -> list[Any]:
        """The next so many micro-batches, prepared; none if fewer are left, as a step needs all of them."""
        fetched = list(itertools.islice(batches, num_batches))
        return [self.prepare_batch(batch) for batch in fetched] if len(fetched) == num_batches else []

    def of_all_ranks(self, batches: list[Any]) -> list[Any]:
        """This rank's micro-batches, or none where another rank has none; collective."""
        # shards are of unlike length: a pass ends for all ranks where it ends for one
        if self.args.world_size > 1 and num_lanes_of(self.train_dataset, self.args.rows_per_step) > 1:
            num_ready = self.accelerator.reduce(torch.tensor(int(bool(batches)), device=self.args.device))
            return batches if int(num_ready) == self.args.world_size else []
        return batches

    def scale_and_log(self, loss: torch.Tensor, terms: Mapping[str, torch.Tensor], model: nn.Module) -> torch.Tensor:
        """Note a micro-batch's share of the step's loss, and return it times the ranks, as DDP averages gradients."""
        num_ranks = self.accelerator.num_processes
        if not model.training:
            return loss * num_ranks
        self.step_log.take_in({"loss": loss} | {f"loss_{name}": value for name, value in terms.items()})
        # A loss that is not finite may have finite gradients; then 0 · loss is NaN and spoils them, so that every rank
        # sees it.
        return loss * (num_ranks + 0.0 * loss.detach())

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch.

        After the last one of a step gradients are complete, averaged over ranks and not clipped yet. A step whose
        gradients are not finite is skipped: `step_log.num_bad_steps_in_row` is above 0 then. After `max_bad_steps` of
        them in a row it raises.
        """
        with self._lowered_matrices():
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not self.accelerator.sync_gradients:
            return loss
        self._norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        # One copy from the device for both values: the host waits for each.
        asked = torch.as_tensor(self.num_stop_requests, device=self._norm.device)
        norm, self.num_stop_requests = torch.stack([self._norm, asked]).tolist()
        if math.isfinite(norm):
            self.step_log.close_step()
            return loss
        self.step_log.skip_step()
        step, in_row = self.state.global_step + 1, self.step_log.num_bad_steps_in_row
        logger.warning("step %d is skipped: gradients are not finite (%d in a row)", step, in_row)
        if self.accelerator.scaler is None:
            self.model.zero_grad(set_to_none=True)  # an optimizer leaves parameters without gradients alone
        else:
            # A gradient scaler skips the step itself; it looks at single gradients, which may be finite where their
            # norm is not.
            next(p.grad for p in self.model.parameters() if p.grad is not None).fill_(math.inf)
        if in_row > self.args.max_bad_steps:
            raise FloatingPointError(
                f"gradients were not finite for {in_row} steps in a row (max_bad_steps={self.args.max_bad_steps}); "
                "lower learning_rate or check the data. Last good checkpoint: "
                f"{self.run_folder.last_good_before(step - in_row + 1)}"
            )
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        # Trainer's would take the norm again. A gradient scaler's gradients must be unscaled first, and a skipped step
        # has none.
        if self.accelerator.scaler is not None or self.step_log.num_bad_steps_in_row:
            return super()._clip_grad_norm(model)
        nn.utils.clip_grads_with_norm_(self.model.parameters(), self.args.max_grad_norm, self._norm)
        return self._norm

    def _lowered_matrices(self) -> AbstractContextManager[None]:
        """Matrices in bfloat16 for a micro-batch; not where wrappers hold the model's own parameters."""
        if not self.args.bf16 or self.model_wrapped is not self.model or is_compiled_module(self.model):
            return nullcontext()
        if self._lowered is None or self._lowered.model is not self.model:
            self._lowered = LoweredMatrices(self.model, torch.bfloat16)
        return self._lowered.in_place()

    def check_finite(self) -> None:
        """Refuse, by a FloatingPointError, a run that ended with weights or gradients that are not finite."""
        name = first_nonfinite_tensor(self.model, None, {})
        # With a gradient scaler a last step may be skipped only because the scale was tried too high.
        if name is None and self.step_log.num_bad_steps_in_row and self.accelerator.scaler is None:
            name = "the gradient"
        if name is not None:
            raise FloatingPointError(
                f"{name} is not finite at the end of step {self.state.global_step}; lower learning_rate="
                f"{self.args.learning_rate:g}"
            )

    @property
    def bare_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer without accelerate's wrapper; None before there is one."""
        return self.optimizer.optimizer if isinstance(self.optimizer, AcceleratedOptimizer) else self.optimizer

    # A run from its first step to its last

    def train(self, resume_from_checkpoint: Requested = None, trial: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on where a checkpoint stopped.

        At SIGTERM the step is finished, a checkpoint saved, and the process ends with status 143; see `sigterm.py`.

        Args:
            resume_from_checkpoint: a folder or an address on the Hub (`hf://…`); True or `"last"` for the newest one
                in `output_dir`; None to start anew.
            trial: of `hyperparameter_search`, whose backend passes it.
            args: as in `Trainer.train`.
            kwargs: as in `Trainer.train`.

        Raises:
            ValueError: no checkpoint, a damaged checkpoint, or a checkpoint without the optimizer; a new run in a
                folder that held files before this trainer was made; a folder in which another process trains; or data
                that are not enough for one step.
            FloatingPointError: too many bad steps in a row, or a checkpoint with values that are not finite.
        """
        if trial is not None:
            from .search import make_again

            # a trial of Optuna becomes settings by hp_space, other backends pass settings
            is_optuna = self.hp_search_backend == HPSearchBackend.OPTUNA
            values = self.hp_space(trial) if is_optuna else {name: trial[name] for name in trial if name != "wandb"}
            self.args.output_dir = self.made_with["args"].output_dir
            make_again(self, values | {"output_dir": super()._get_output_dir(trial)})
        # the folder is held from before its checkpoints are looked at until the last file is written
        with folder_claimed(str(self.args.output_dir), is_main=self.args.should_save):
            if self.args.world_size > 1:
                check_same_rows(on_every_rank(lambda: self._rows_told))
            folder = self.run_folder.resolve(resume_from_checkpoint)
            self.resumed_logs = self.resumed_place = None
            self.resumed_from, self.saved_at, self.passed_at = folder, None, None
            given = {name: self.made_with.get(name) for name in ("model", "teacher_model")}
            read = {name: getattr(one, "name_or_path", one) for name, one in given.items()}
            on_every_rank(partial(self.run_folder.check, folder, read))
            if folder is None and not self.has_started:
                if isinstance(self.data_collator, SeededMasks):
                    self.data_collator.set_epoch(0)  # it may have masked another run's batches
                self.start_student()
                self.has_started = True
            set_seed(self.args.seed)  # whatever was drawn since this trainer was made
            evaluates_first = self.args.eval_on_start
            try:
                self.args.eval_on_start = evaluates_first and folder is None  # a resumed run has done it
                with StopRequest() as self.stop_request:
                    result = super().train(folder, trial, *args, **kwargs)
            finally:
                self.args.eval_on_start = evaluates_first
            if self.stop_request.is_made:
                self.stop_request.leave()
            if self.state.global_step == 0:
                raise ValueError(
                    "the run ended after 0 steps: train_dataset gave fewer rows than a step has "
                    f"({self.args.rows_per_step} = {_ROWS}; with dataloader_num_workers each worker of a stream needs "
                    "its own whole micro-batches); give more rows, a smaller batch, or fewer workers"
                )
            if not self.step_log.num_good_steps and not self.stop_request.is_made:
                self.check_finite()
            self.save_state()  # the logs, for the report
            # A trial is judged by the student that it leaves: the backend evaluates it, unless the last step did.
            is_evaluated = self.state.global_step in evaluations_in(self.state.log_history)
            if self.args.load_best_model_at_end or not is_evaluated:
                self.objective = None
            # `log` has put the mean over good steps there; Trainer's own counts skipped ones
            return result._replace(training_loss=result.metrics["train_loss"])

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """Trainer's values, for passes of whole steps, each of a whole global batch; refuses data too few for one."""
        num_steps = len(dataloader) // args.gradient_accumulation_steps if has_length(dataloader) else None
        self.num_pass_steps = num_steps
        if num_steps == 0:
            raise ValueError(
                f"train_dataset has fewer rows than the {self.args.rows_per_step} of a step ({_ROWS}); give more rows "
                "or a smaller batch"
            )
        values = super().set_initial_training_values(args, dataloader)
        # A stream's length is known only at its end: Trainer's values hold, and `whole_step` leaves the rest out.
        if num_steps is None:
            return values
        # Trainer counts micro-batches at the end of a pass that are too few for a step as one more step. Here they
        # are left out, so passes, steps and rows all follow from the number of whole steps.
        _, _, num_examples, _, rows_per_step, _, _ = values
        max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * num_steps)
        num_epochs, num_rows = math.ceil(max_steps / num_steps), max_steps * self.args.rows_per_step
        num_batches = num_steps * args.gradient_accumulation_steps
        return num_epochs, num_steps, num_examples, num_rows, rows_per_step, num_batches, max_steps

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, *args: Any, **kwargs: Any
    ) -> tuple[int, int]:
        # The length of a stream is known only when it ends, so Trainer counts all its passes as one. The checkpoint
        # has the number of whole passes, and the steps of the present one.
        numbers = max_steps, num_update_steps_per_epoch, num_train_epochs
        epochs, batches = super()._init_training_state(*numbers, *args, **kwargs)
        # Trainer saves the state of callbacks under names that a checkpoint without them doesn't have.
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
        if self.resumed_logs is None:
            return epochs, batches
        self._restore_counters()
        self._find_best_checkpoint()
        is_out_of_patience = any(
            isinstance(callback, EarlyStoppingCallback)
            and callback.early_stopping_patience_counter >= callback.early_stopping_patience
            for callback in self.callback_handler.callbacks
        )
        if is_out_of_patience or (self.resumed_behind and self.state.global_step >= max_steps):
            return num_train_epochs, 0  # all was done
        num_batches = self.args.gradient_accumulation_steps
        if self.num_pass_steps is not None:
            # At the last step of a pass Trainer would go on with the next one.
            if batches == 0 and epochs and not self.resumed_behind:
                epochs, batches = epochs - 1, self.num_pass_steps * num_batches
            self.resumed_place = epochs, batches // num_batches
            return epochs, batches
        if self.resumed_place is None:  # a checkpoint of an earlier version
            epochs = int(self.state.epoch)
            self.resumed_place = epochs, round((self.state.epoch - epochs) * num_update_steps_per_epoch)
        passes, steps = self.resumed_place
        return passes, steps * num_batches

    def begin_training(self) -> None:
        """Called when the length of the run is known, the optimizer is loaded, and Trainer has reset its averages."""
        self.is_stopping = False
        self.step_log = StepLog()
        self.current_flos = 0  # of a step that an error has ended
        self.place = self.resumed_place or (int(self.state.epoch or 0), 0)
        self.epoch_number = self.place[0]
        if self.resumed_logs is not None:
            self.step_log.load_state_dict(
                self.resumed_logs,
                rank=self.args.process_index,
                num_ranks=self.args.world_size,
                device=self.args.device,
            )
        on_every_rank(partial(self.run_folder.take, self.resumed_from))
        lay_out_buckets(self.model_wrapped, self.smallest_inputs())

    def _restore_counters(self) -> None:
        """Give callbacks what they had exported, such as the patience that is left of early stopping.

        Trainer's own way, off by default, makes callbacks anew, with the settings that they had.
        """
        for name, saved in self.state.stateful_callbacks.items():
            known = [callback for callback in self.callback_handler.callbacks if type(callback).__name__ == name]
            # of several callbacks of a class Trainer appends at each save: the last are those of this checkpoint
            last = saved[-len(known) :] if isinstance(saved, list) and known else [saved]
            for callback, of_callback in zip(known, last, strict=False):
                for attribute, value in of_callback.get("attributes", {}).items():
                    setattr(callback, attribute, value)

    def _find_best_checkpoint(self) -> None:
        """Find the best checkpoint where a run's folder was moved or copied: beside the one that is resumed."""
        if not (step := self.state.best_global_step) or self.resumed_from is None:
            return
        beside = Path(self.resumed_from).parent / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if beside.is_dir():
            self.state.best_model_checkpoint = str(beside)
        elif self.state.best_model_checkpoint is None and self.args.load_best_model_at_end:  # nor where it was
            logger.warning("%s, the best one so far, is no more: only later ones will count as the best", beside)
            self.state.best_metric = self.state.best_global_step = None

    def begin_epoch(self) -> None:
        """Called before each pass over the data: it gets masks, and an order by length, of its own."""
        # a loader of several ranks that skips batches, in a resumed pass, hands no number of the pass in so deep
        for sampler in self._length_samplers:
            sampler.set_epoch(self.epoch_number)
        if isinstance(self.data_collator, SeededMasks):
            self.data_collator.set_epoch(self.epoch_number)
        if has_length(self.train_dataset) and hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(self.epoch_number)  # accelerate does so in whole passes alone
        self.epoch_number += 1

    def begin_step(self) -> None:
        """Called before the first micro-batch of a step; subclasses change the model here."""

    def end_step(self) -> None:
        """Called at the end of a step, before log, evaluate and save."""
        self.place = self.place[0], self.place[1] + 1
        follows_steps = type(self.lr_scheduler).__name__ not in _FOLLOWING_METRICS
        if self.accelerator.optimizer_step_was_skipped and follows_steps:
            self.lr_scheduler.step()  # after a gradient scaler's skip Trainer would hold the learning rate's clock
        # several ranks go by the sum of their requests, as all of them must stop at the same step
        self.is_stopping = self.stop_request.is_made if self.args.world_size == 1 else bool(self.num_stop_requests)
        if self.is_stopping:
            self.control.should_save = self.control.should_training_stop = True

    def end_epoch(self) -> None:
        """Called at the end of a pass, or after the step at which a rank was asked to stop: then all ranks leave."""
        if self.num_pass_steps is None:
            # at the end of the run a stream may have more
            is_over = not self.control.should_training_stop and self.state.global_step < self.state.max_steps
        else:
            is_over = self.place[1] == self.num_pass_steps
        # a pass that was resumed behind its last step
        if self.num_pass_steps and self.place == self.resumed_place and self.resumed_from is not None:
            # Trainer restores the random state before a step, and takes the step's log for written
            self._load_rng_state(self.resumed_from)
            logged = [entry["step"] for entry in self.state.log_history if "loss" in entry]
            self._globalstep_last_logged = logged[-1] if logged else 0
        if is_over:
            self.place = self.place[0] + 1, 0
        self.passed_at = self.state.global_step
        if self.is_stopping:
            # Before Trainer ends the run: it would remove this checkpoint if only the best one may stay.
            self._leave()

    def _leave(self) -> None:
        request, step, remedy = self.stop_request, self.state.global_step, self.run_folder.how_to_resume
        logger.warning("%s: checkpoint-%d is saved; go on with %s", request.name, step, remedy)
        request.leave()

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        # Asked to stop behind the last step, in its evaluation: what was trained is saved, as was said.
        is_asked = torch.tensor(int(self.stop_request.is_made), device=self.args.device)
        if self.accelerator.reduce(is_asked):
            self.is_stopping = True
            if self.saved_at != self.state.global_step or self.args.save_only_model:
                self._save_checkpoint(self.model, trial)
            self._leave()
        # Where only the best checkpoint may stay Trainer removes the others file by file, so that a kill in between
        # would leave half of one.
        if self.args.save_total_limit == 1 and (best := self.state.best_model_checkpoint):
            self.run_folder.rotate(Path(self._get_output_dir(trial)), keep=[best])
        return super()._finalize_training(trial, *args, **kwargs)

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        # The one place where loaders are made. Trainer's would share a stream by file and repeat its rows, and would
        # drop rows of an evaluation where training drops them, and mask it by the training's epoch.
        is_training = kwargs.get("is_training")
        name = "train_dataset" if is_training else "the data set to evaluate on"
        check_kind(name, dataset)
        # streams of datasets divide their shards among the workers
        is_foreign = isinstance(dataset, IterableDataset) and not isinstance(dataset, datasets.IterableDataset)
        if is_foreign and (num_workers := self.args.dataloader_num_workers or 0) > 1:
            logger.warning(
                "dataloader_num_workers=%d: each worker reads all rows of %s, a %s, unless its __iter__ divides them "
                "by torch.utils.data.get_worker_info(); set it to 1 if it does not",
                num_workers,
                name,
                type(dataset).__name__,
            )
        if not is_training:
            if isinstance(dataset, IterableDataset) and self.args.world_size > 1:
                raise ValueError(
                    f"a stream ({type(dataset).__name__}) to evaluate on can't be shared evenly by "
                    f"{self.args.world_size} ranks; make it a table: Dataset.from_list(list(stream))"
                )
            kept = self.data_collator, self.args.dataloader_drop_last
            self.data_collator, self.args.dataloader_drop_last = self.evaluation_collator(), False
            try:
                return self._with_own_workers(super()._get_dataloader(dataset, *args, **kwargs))
            finally:
                self.data_collator, self.args.dataloader_drop_last = kept
        if isinstance(dataset, IterableDataset):
            from .streams import DealtShards, WholeBatches, with_own_epoch  # for few runs

            if self.args.train_sampling_strategy == "group_by_length":
                raise ValueError(
                    "train_sampling_strategy='group_by_length' sorts a table, but train_dataset is a stream "
                    f"({type(dataset).__name__}); leave it out, and give homodistil_hf.by_length(stream, "
                    f"batch_size={self.args.rows_per_step})"
                )
            batch_size, num_ranks = self.args.train_batch_size, self.args.world_size
            if isinstance(dataset, datasets.IterableDataset):
                dataset = with_own_epoch(dataset)
            if num_lanes_of(dataset, self.args.rows_per_step) > 1:
                how = {"rank": self.args.process_index, "num_ranks": num_ranks}
                rows_per_step = self.args.rows_per_step
                dataset = DealtShards(dataset, rows_per_step=rows_per_step, batch_size=batch_size, **how)
            else:
                dataset = WholeBatches(dataset, num_rows=batch_size * num_ranks)
        return self._with_own_workers(super()._get_dataloader(dataset, *args, **kwargs))

    def _with_own_workers(self, loader: Any) -> Any:
        # Accelerate hands attributes of the loader that it wraps out, but not in.
        inner = loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
        if self.args.dataloader_num_workers:
            inner.worker_init_fn = partial(start_worker, inner.worker_init_fn)
        if inner.persistent_workers:
            # they draw a seed once, those of a resumed pass again: not from what dropout draws from
            inner.generator = torch.Generator().manual_seed(self.args.seed)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # Trainer's groups by length in an order of the global generator, which a resumed pass would draw otherwise.
        rows = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(rows)
        from ..data.lengths import LengthSampler

        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        sampler = LengthSampler(rows, batch_size=self.args.rows_per_step, seed=seed)
        self._length_samplers.add(sampler)
        return sampler

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Trainer's, with predictions in the order of the rows also where training groups them by length."""
        strategy, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "sequential"
        try:
            return super().get_test_dataloader(test_dataset)
        finally:
            self.args.train_sampling_strategy = strategy

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # An early model that is still larger would always win: only finished ones compete. With save_strategy="best"
        # the answer also decides whether to save, and SIGTERM asks for a checkpoint.
        wanted, names = self.args.metric_for_best_model, [name.removeprefix("eval_") for name in metrics]
        if wanted is not None and str(wanted).removeprefix("eval_") not in names:
            raise ValueError(f"metric_for_best_model={wanted!r} is in no evaluation; {nearest_valid(wanted, names)}")
        return (self.is_finished and super()._determine_best_metric(metrics, trial)) or self.is_stopping

    # A search of settings

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Try settings, as `Trainer.hyperparameter_search` with the same arguments and return.

        Each trial is a new run from the constructor's `model`, in `output_dir/run-N`. `hp_space` may name any setting
        of the run. Afterwards the trainer is as if made with the best settings; with several directions, as it was.

        Args:
            hp_space: trial → settings by name; default: the backend's.
            compute_objective: metrics of an evaluation → its result; default: `eval_kl`, or `eval_loss` without one;
                of several evaluation sets the mean.
            args: as in `Trainer.hyperparameter_search`.
            kwargs: as in `Trainer.hyperparameter_search`.

        Raises:
            ValueError: the trainer trains the given model itself; `hp_space` names no setting.
        """
        from .search import check_searchable, default_objective, make_again  # few runs are searches

        check_searchable(self)
        earlier_files = self.run_folder.earlier_files
        self.model_init = lambda: self.model  # Trainer asks for one, but `train` makes the whole trainer again
        best = super().hyperparameter_search(hp_space, compute_objective or default_objective, *args, **kwargs)
        (best,) = broadcast_object_list([best])
        make_again(self, best.hyperparameters if isinstance(best, BestRun) else {})
        self.run_folder.earlier_files = earlier_files  # the trials' folders are in no run's way
        return best

    def _hp_search_setup(self, trial: Any) -> None:
        # Trainer would only now change args, by which the student was planned; `train` has.
        self._trial = trial

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with every term of the loss and skipped steps and `status` beside Trainer's own training logs."""
        if "loss" in logs and "learning_rate" in logs:  # Trainer's: a user may log on one rank only
            del logs["loss"]  # Trainer's counts skipped steps, and does not survive a resume
            logs |= self.step_log.averages(self.accelerator.reduce)
            logs |= {"num_bad_steps": self.step_log.num_bad_steps} | self.status()
        if "train_loss" in logs:
            logs["train_loss"] = self.step_log.mean_loss(self.accelerator.reduce)
        super().log(logs, start_time)

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Like Trainer's; no file has the Hub token, and a student computes the same in its stock class."""
        token, self.args.hub_token = self.args.hub_token, None  # which would be in training_args.bin
        try:
            with as_stock_reads_it(self.model):
                super().save_model(output_dir, _internal_call=True)
        finally:
            self.args.hub_token = token
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Trainer writes straight into checkpoint-N, pushes and rotates before all of it is there.
        step = self.state.global_step
        if name := first_nonfinite_tensor(self.model, self.bare_optimizer, self.tensors_to_save()):
            raise FloatingPointError(
                f"{name} is not finite at the end of step {step}, so checkpoint-{step} is not saved; lower "
                f"learning_rate. Last good checkpoint: {last_checkpoint(self.args.output_dir)}"
            )
        run_dir = Path(self.args.output_dir)
        checkpoint = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        logs = self.step_log.state_dict(gathered)
        only_model = self.args.save_only_model
        with self.run_folder.staging(checkpoint, wait=self.accelerator.wait_for_everyone) as staged:
            try:
                self.args.save_only_model = only_model and not self.is_stopping  # a stopped run is to go on
                super()._save_checkpoint(model, trial)
            finally:
                self.args.save_only_model = only_model
            self.accelerator.wait_for_everyone()
            # Trainer looked for the best checkpoint in the staging folder; it will be where this one goes.
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(checkpoint)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                self.write_state(staged, logs)
        self.saved_at = step
        # In a row of bad steps the newest checkpoint may be beyond repair, so one from before the row stays too.
        num_bad_steps = self.step_log.num_bad_steps_in_row
        good = self.run_folder.last_good_before(step - num_bad_steps + 1) if num_bad_steps else None
        self.run_folder.rotate(run_dir, keep=[checkpoint, self.state.best_model_checkpoint, good])
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        # Where Trainer writes a checkpoint is the folder in which it is staged. In a trial, args name its folder.
        return self.run_folder.staged_in or str(self.args.output_dir)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Trainer pushes a checkpoint while it is still staged; _save_checkpoint asks again once it is complete.
        if self.run_folder.staged_in is None:
            self.push_checkpoint(Path(checkpoint_folder))

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Push a complete checkpoint to the Hub, as Trainer does."""
        super()._push_from_checkpoint(str(checkpoint))

    def write_state(self, folder: Path, logs: Mapping[str, Any]) -> None:
        """Add `tensors_to_save`, `state_to_save` and the running averages to a staged checkpoint."""
        save_queries(folder, self.model)
        if tensors := self.tensors_to_save():
            with naming_the_file(folder, file=SCORES_FILE):
                save_file(tensors, folder / SCORES_FILE)
        place = {} if has_length(self.train_dataset) else {PLACE: self.place}
        place |= {IS_BEHIND: self.passed_at == self.state.global_step}
        write_json(folder / self.state_file, self.state_to_save() | {"logs": dict(logs)} | place, sort_keys=True)

    def tensors_to_save(self) -> dict[str, torch.Tensor]:
        """Tensors beside those of model and optimizer that a checkpoint holds, by name; on the CPU."""
        return {}

    def state_to_save(self) -> dict[str, Any]:
        """The JSON values that a checkpoint holds of the run; subclasses add theirs."""
        settings = self.args.settings_that_matter(is_stream=not has_length(self.train_dataset))
        settings |= {"rows_per_step": self.args.rows_per_step} | self._digests["settings"]
        settings |= {name: getattr(self.args, name) for name in _OF_BEST}
        if self._is_cut_by_batches:
            settings |= {name: getattr(self.args, name) for name in _CUT}
        return {"method": self.method, "settings": settings} | self._digests["run"]

    @property
    def _is_cut_by_batches(self) -> bool:
        # whether a step depends on how it is cut into batches: by dropout, or as its last ones are fewer, or workers
        # read in turn
        if any(map(_drops, self.model.modules())):
            return True
        if not isinstance(self.train_dataset, IterableDataset):
            return not self.args.dataloader_drop_last
        num_lanes = num_lanes_of(self.train_dataset, self.args.rows_per_step)
        return (self.args.dataloader_num_workers or 0) > 1 and num_lanes == 1

    @cached_property
    def _rows_told(self) -> str | None:
        # what tells rows from others
        if not isinstance(self.train_dataset, IterableDataset):
            return rows_digest(self.train_dataset)
        from .streams import order_digest

        return order_digest(self.train_dataset)

    @cached_property
    def _digests(self) -> dict[str, dict[str, str]]:
        # of what no setting tells; neither changes during a run
        rows, teacher = self._rows_told, self.frozen_teacher
        return {
            "settings": {} if rows is None else {"train_dataset": rows},
            "run": {} if teacher is None else {TEACHER_SHA256: tensors_digest(teacher)},
        }

    def read_state(self, folder: Path) -> dict[str, Any]:
        """Bring the model back to a verified checkpoint.

        Returns:
            `dict`: what `state_to_save` gave, and `logs`.

        Raises:
            ValueError: the checkpoint is of another run or method, or its parameters are not the model's.
        """
        state = read_json_object(folder / self.state_file, str(folder / self.state_file))
        self.check_state(state, folder)
        self.take_state(state, folder)
        return state

    def take_state(self, state: Mapping[str, Any], folder: Path) -> None:
        """Load the model of a checkpoint, whose content is `state`; subclasses load what they added."""
        # Trainer only warns of missing weights, and some models are saved under other names than they have in memory.
        saved = type(self.model).from_pretrained(folder, dtype="float32")
        self.model.load_state_dict(saved.state_dict() | exact_queries(folder))

    def check_state(self, state: Mapping[str, Any], folder: Path) -> None:
        """Refuse a checkpoint of another run by a ValueError, and warn of other settings; `state` is its content."""
        expected, saved = self.state_to_save(), state["settings"]
        check_same_run(state, expected, folder)
        if saved.get("data_seed", 0) is None:  # of earlier versions, which took the seed
            saved = saved | {"data_seed": saved.get("seed")}
        warn_of_other_settings(expected["settings"], saved)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Trainer would load weights into a model of other widths. The optimizer doesn't exist yet.
        for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
            if not Path(resume_from_checkpoint, name).is_file():
                raise ValueError(
                    f"resume_from_checkpoint={resume_from_checkpoint!r} has no {name}, as it was saved with "
                    "save_only_model=True; it can be exported, but only a full checkpoint can be resumed"
                )
        state = self.read_state(Path(resume_from_checkpoint))
        self.resumed_logs = state["logs"]
        self.resumed_place = tuple(state[PLACE]) if PLACE in state else None
        self.resumed_behind = state.get(IS_BEHIND, True)  # earlier versions went on with the next pass
        self.has_started = True

    def _load_best_model(self) -> None:
        # The best model may have other widths than the last one, and its files may have been damaged since.
        check_manifest(self.state.best_model_checkpoint)
        self.read_state(Path(self.state.best_model_checkpoint))
        self.has_loaded_best()


class _Moments(TrainerCallback):
    """Calls the trainer's methods at the moments that Trainer offers to callbacks only."""

    def __init__(self, trainer: ExactTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_training()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_step()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.end_epoch()


def _drops(module: nn.Module) -> bool:
    """Whether a module drops values in training; some kinds of attention have a rate and no module for it."""
    rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "attention_dropout", 0.0)
    return isinstance(rate, int | float) and rate > 0


def warn_of_other_settings(now: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Warn of each setting whose value differs from the checkpoint's; names of one side only are let pass."""
    for name in now:
        if name in saved and now[name] != saved[name]:
            logger.warning(
                "resumed with %s=%s, the checkpoint has %s: the run will differ from an uninterrupted one; set it as "
                "it was to go on exactly",
                name,
                short_repr(now[name]),
                short_repr(saved[name]),
            )
