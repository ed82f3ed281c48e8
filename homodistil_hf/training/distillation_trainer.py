"""A `Trainer` whose model is a student beside its frozen teacher; how the student becomes small is told by subclasses.

It knows nothing of pruning. What a run needs beside the loop, plain objects and functions do: `RunFolder`
(checkpoints), `StepLog` (averages), `HeldOutEvaluation`, `Publisher` (exports, the Hub), `ranks` and `rows`. Where a
private method of Trainer is overridden, its first line says why.
"""

import copy
import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.data_loader import DataLoaderAdapter
from accelerate.optimizer import AcceleratedOptimizer
from huggingface_hub import HfApi
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainerCallback, set_seed
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, has_length
from transformers.utils import PushInProgress

from ..data.masking import EVALUATED_PROBABILITY, MaskedLMCollator, masking_collator
from ..distillation.objective import DistillationLoss, Terms, check_weights
from ..distillation.tasks import Task, task_of
from ..distillation.teacher import FrozenTeacher
from ..export.card import MethodCard
from ..export.dense_student import check_finished, dense_copy
from ..files.checkpoints import SCORES_FILE, STATE_FILE, check_manifest, last_checkpoint
from ..files.folders import naming_the_file
from ..files.strict_json import write_json
from ..models.compiling import allow_recompiling
from ..models.saved_student import first_nonfinite_tensor, load_student, read_state, save_projections
from ..models.units import UnitTensors, head_group
from ..models.widths import WidthPlan, kept_fractions, widths_of
from ..plans.recipe import TASK_LEARNING_RATE
from ..training_args import LOSS_TERMS, DistillationArguments
from .checks import (
    check_batch,
    check_data,
    check_labels,
    own_arguments,
    pin_data_order,
    refuse_replacements,
    refuse_settings_without_part,
    settings_that_matter,
    warn_of_other_settings,
)
from .evaluation_loop import HeldOutEvaluation, evaluations_in, gathered, one_or_all
from .learning_rate import learning_rate_curve, measured_learning_rate, row_length_of
from .pair import ProjectionInit, Start, adopt_optimizer, prepare
from .publishing import Publisher
from .ranks import check_launch, settle_buckets, wrap_again
from .rows import WholeBatches, check_evaluation_stream
from .run_folder import Requested, RunFolder, check_moments, check_resumable, check_same_run
from .sigterm import StopRequest, start_worker
from .step_log import StepLog
from .student_plan import resolve_student

logger = logging.getLogger(__name__)

EXAMPLE_ID = "example_id"
"""Column that numbers the rows of masked-LM data."""
_PREPARED = "_is_accelerate_prepared"
_FOLLOWING_METRICS = ("ReduceLROnPlateau", "GreedyLR")


class DistillationTrainer(Trainer):
    """Trains a student beside its frozen teacher; everything else is `transformers.Trainer`.

    A subclass names its `method`, says how the student starts (`start_student`) and changes (`begin_step`), and which
    terms its loss has (`make_distillation`).

    A run's parts come from the hooks under "What a method decides"; the constructor is the same for all methods.

    Args:
        model: what the student starts from: Hub name, folder, or a loaded model (which is copied).
        args: the run's settings, of the method's `arguments_class`; copied.
        teacher_model: who the student learns from: Hub name, folder, or a loaded model. Default: a frozen copy of
            `model`.
        train_dataset: tokenized rows, or a stream of them.
        eval_dataset: rows held out, or several sets by name.
        processing_class: tokenizer; saved with checkpoints and exports.
        data_collator: default: what the method's data need, for masked words [`MaskedLMCollator`].
        compute_metrics: as in `transformers.Trainer`.
        callbacks: as in `transformers.Trainer`.
        optimizers: `(optimizer, scheduler)`; an optimizer is made from the parameters of `model` and will hold the
            student's.
        optimizer_cls_and_kwargs: as in `transformers.Trainer`.
        preprocess_logits_for_metrics: as in `transformers.Trainer`.
        model_init: refused, as the student starts from `model`.
        compute_loss_func: refused, as it would replace the distillation loss.
        plan: the widths that `args.student` names, where they are resolved already.

    Raises:
        ValueError: anything that would fail later: impossible plan, unsupported model or setting, mismatched
            tokenizer, empty data, unwritable output folder.
    """

    method: ClassVar[str]
    """Name by which configs choose it; checkpoints and exports tell it."""
    card: MethodCard
    """What the model card says of the method."""
    learning_rate_share = 1.0
    """Share of the default learning rate that suits the method."""
    needs_head = True
    """Whether encoders without a head are refused."""
    has_all_layers = True
    """Whether the student has as many layers as its teacher."""
    arguments_class: ClassVar[type[DistillationArguments]] = DistillationArguments
    """Class of the method's settings."""
    args: DistillationArguments
    matched_layers: Sequence[int] | None = None
    """The teacher's layer for each of the student's, where the teacher has more."""
    told_metrics: ClassVar[tuple[str, ...]] = ("kl", "mlm_loss", "mlm_accuracy")
    """Held-out metrics that a run's results tell of student and teacher."""
    teacher_evaluation: Mapping[str, float] = {}
    """Held-out metrics of the teacher, once `evaluate_teacher` has measured them."""

    lr_scheduler: Any
    data_collator: Any
    model_wrapped: nn.Module
    stop_request = StopRequest()
    is_stopping = False
    num_asked_to_stop: torch.Tensor | int = 0
    push_in_progress: PushInProgress | None = None
    has_started = False
    resumed_from: str = ""
    resumed_logs: Mapping[str, Any] | None = None
    batch_counts: torch.Tensor | None = None
    has_complete_gradients = False
    epoch_number = 0

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: DistillationArguments,
        *,
        teacher_model: str | PreTrainedModel | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Any = None,
        compute_metrics: Callable[..., Any] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, Any] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        model_init: None = None,
        compute_loss_func: None = None,
        plan: WidthPlan | None = None,
    ):
        refuse_replacements(model_init=model_init, compute_loss_func=compute_loss_func)
        self.args = args = own_arguments(args, self.arguments_class)
        check_launch(args)
        pin_data_order(args)
        self.run_folder = RunFolder(args)
        start = self.start_from(model, teacher_model, plan)
        resolved = start.plan
        parts = prepare(
            start.model,
            args,
            teacher=start.teacher_model,
            resolve=self.plan_of if resolved is None else lambda *_: resolved,
            matched_layers=self.matched_layers,
            needs_head=self.needs_head,
            projection_init=self.projection_init,
        )
        processing_class = self.tokenizer_of(processing_class)
        check_data(
            {"train_dataset": train_dataset, "eval_dataset": eval_dataset}, processing_class, parts.student.config
        )
        task = task_of(parts.student)
        refuse_settings_without_part(args, task, masks_words=data_collator is None)
        if args.learning_rate is None:
            args.learning_rate = self.default_learning_rate(task, parts.teacher.exact.config, train_dataset)
        self.plan, self.full = parts.plan, widths_of(parts.student.config)
        self.kept_heads = [torch.arange(layer.num_attention_heads) for layer in self.full.layers]
        self.is_masking = data_collator is None and task.is_pretraining
        if data_collator is None:
            data_collator = self.default_collator(task, processing_class)
        self.publisher = Publisher(self)
        super().__init__(
            model=parts.student,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if self.optimizer is not None:
            adopt_optimizer(self.optimizer, None if isinstance(start.model, str) else start.model, self.model)
        self.loss_is_scaled_for_ga = True
        self.step_log = StepLog()
        self.distillation = self.make_distillation(parts.teacher.to(args.device))
        self.held_out = HeldOutEvaluation(
            self.model, self.distillation.teacher, self.distillation.task, self.accelerator
        )
        if args.torch_compile:
            allow_recompiling()
            self.distillation.teacher.compile(**self.accelerator.state.dynamo_plugin.to_kwargs())
        # First in line, so that users' callbacks see the step as it ends.
        self.callback_handler.callbacks.insert(0, _Moments(self))
        self._look_at_collator()
        self.set_up_student()
        # No rank may write into output_dir before all have seen what was there.
        self.accelerator.wait_for_everyone()

    def _look_at_collator(self) -> None:
        if isinstance(self.data_collator, MaskedLMCollator):
            # The model takes no row number, but a row's masks are drawn from it.
            self._set_signature_columns_if_needed()
            self._signature_columns: list[str] = list(dict.fromkeys([*self._signature_columns, EXAMPLE_ID]))
        elif self.distillation.task.name == "mlm":
            logger.warning(
                "data_collator=%s draws its masks from a global generator: evaluations differ from each other and a "
                "resumed run is not bit-identical; homodistil_hf.MaskedLMCollator draws them from seed, epoch and row",
                type(self.data_collator).__name__,
            )

    # What a method decides

    def start_from(
        self, model: str | PreTrainedModel, teacher_model: str | PreTrainedModel | None, plan: WidthPlan | None
    ) -> Start:
        """What the student starts from, who it learns from and its plan; a method may leave out layers here.

        `self.args` is the run's own copy of the settings by then. Arguments as in the constructor.
        """
        return Start(model, teacher_model, plan)

    def tokenizer_of(self, processing_class: Any) -> Any:
        """The tokenizer of the run, where the model brings one."""
        return processing_class

    def default_collator(self, task: Task, tokenizer: Any) -> Any:
        """Where the user gives no collator: one that masks words in pre-training, else None, Trainer's own."""
        if not task.is_pretraining:
            return None
        return masking_collator(
            tokenizer,
            mlm_probability=self.args.mlm_probability,
            seed=self.args.seed,
            replaces=task.has_one_logit,
        )

    def default_learning_rate(self, task: Task, teacher_config: PreTrainedConfig, train_dataset: Any) -> float:
        """The peak rate where none is given, and a log line that says why."""
        if not task.is_pretraining:
            logger.info(
                "learning_rate=%g, as none is given: for a task there is no measured rule; try 1e-4, 3e-4 and 6e-4",
                TASK_LEARNING_RATE,
            )
            return TASK_LEARNING_RATE
        return measured_learning_rate(
            self.args,
            row_length=row_length_of(train_dataset),
            hidden_size=teacher_config.hidden_size,
            share=self.learning_rate_share,
        )

    @property
    def projection_init(self) -> ProjectionInit:
        """Start of the projections student → teacher; random for students that don't start as their teacher."""
        return "random"

    def set_up_student(self) -> None:
        """What a method adds to the student once model, loss and settings are there; nothing by default."""

    def plan_step(self, num_training_steps: int) -> float:
        """The step at which the student has its plan's widths; 0 for those that have them from the start on."""
        return 0.0

    @classmethod
    def plan_of(cls, args: DistillationArguments, config: PreTrainedConfig) -> WidthPlan:
        """Resolve what `args.student` names; collective for a latency budget.

        Raises:
            ValueError: no such student, or none that the method could make.
        """
        return resolve_student(args, config, has_all_layers=cls.has_all_layers)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """Why the method can't make a student of such a plan from a teacher, if so; a sweep skips the cell."""
        return None

    @classmethod
    def check_possible(cls, plan: WidthPlan, teacher: WidthPlan) -> None:
        """Refuse a student that the method can't make; arguments as [`DistillationTrainer.impossible_reason`]."""
        if (reason := cls.impossible_reason(plan, teacher)) is not None:
            raise ValueError(f"method={cls.method!r} is impossible for this student: {reason}")

    def start_student(self) -> None:
        """Make the student of a new run ready for its first step; one that resumes comes from a checkpoint."""

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """The terms of the loss, HomoDistil's by default; refuses weights of which none counts for the student."""
        weights = dict.fromkeys(LOSS_TERMS, 0.0) | self.args.loss_weights()
        check_weights(weights, self.model)
        return DistillationLoss(
            self.model, teacher, weights=weights, kept_heads=self.matched_heads, matched_layers=self.matched_layers
        )

    @property
    def is_finished(self) -> bool:
        """Whether the student has the widths that it is to have at the end; one of fixed widths from its start on."""
        return self.has_started or self.kept == self.plan

    def dense_student(self, *, format: str = "standard", allow_partial: bool = False) -> PreTrainedModel:
        """A copy of the student as an export holds it: on the CPU, in evaluation mode, without projections.

        Args:
            format: `"standard"` or `"compact"`: which widths are possible before the plan is reached.
            allow_partial: take a student that has not reached its plan at the nearest possible widths.
        """
        self.check_finished(allow_partial=allow_partial)
        return dense_copy(self.model)

    def check_finished(self, *, allow_partial: bool) -> None:
        """Refuse a student that is still on its way; see [`check_finished`]."""
        check_finished(self.is_finished, kept=self.kept, target=self.plan, allow_partial=allow_partial)

    def status(self) -> dict[str, float]:
        """What logs say about the student: `kept_fraction_{kind}` of channels, attention and FFN neurons."""
        return {f"kept_fraction_{kind}": value for kind, value in kept_fractions(self.kept, self.full).items()}

    @property
    def kept(self) -> WidthPlan:
        """The widths that the student has now."""
        return widths_of(self.model.config)

    def matched_heads(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Heads of a layer that both models still have: their int64 indices `(in the teacher, in the student)`."""
        return self.kept_heads[layer], torch.arange(len(self.kept_heads[layer]))

    # One optimizer step

    @property
    def rows_per_step(self) -> int:
        """The global batch: rows an optimizer step, over all micro-batches and ranks."""
        return self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Fetch the micro-batches of one step, and count what they hold over all of them and all ranks.

        Micro-batches too few for a step, at the end of a stream, are left out, and so is everything once the run is
        done, when a finished one is resumed.
        """
        is_done = 0 < self.state.max_steps <= self.state.global_step and self.is_in_train
        batches = [] if is_done else list(itertools.islice(epoch_iterator, num_batches))
        if len(batches) < num_batches:
            return [], None
        for batch in batches:
            check_batch(batch, self.model.config)
            check_labels(batch, self.distillation.task, self.data_collator)
        batches = [self.distillation.task.with_positions(batch) for batch in batches]
        # A fourth number travels along, so that all ranks hear of a SIGTERM without a message of its own.
        counts = torch.zeros(4, dtype=torch.int64, device=device)
        counts[3] = int(self.stop_request.is_made)
        for batch in batches:
            counts[:3] += self.distillation.count(batch).to(device)
        counts = self.accelerator.reduce(counts)
        self.batch_counts, self.num_asked_to_stop = counts[:3], counts[3]
        return batches, self.batch_counts[0]

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The distillation loss of one micro-batch; see [`DistillationLoss.total`].

        `num_items_in_batch` is unused: `get_batch_samples` has counted predictions, tokens and pairs.
        """
        terms, outputs = self.loss_terms(model, inputs)
        loss = self.accounted(self.distillation.total(terms), terms, model)
        return (loss, outputs) if return_outputs else loss

    def loss_terms(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Terms, Any]:
        """The terms of a micro-batch, unweighted, and the student's output; as [`DistillationLoss.terms`].

        They are shares of averages over the step's global batch, or outside of steps over the batch itself.
        """
        counts = self.distillation.count(inputs) if self.batch_counts is None else self.batch_counts
        return self.distillation.terms(model, inputs, counts, autocast=self.accelerator.autocast)

    def accounted(self, loss: torch.Tensor, terms: Terms, model: nn.Module) -> torch.Tensor:
        """Note a micro-batch's share of the step's loss, and give it times the ranks, as DDP averages gradients."""
        if model.training:
            self.step_log.take_in({"loss": loss} | {f"loss_{name}": term for name, term in terms.items()})
            # A loss that is not finite may have finite gradients; the factor spoils them, so that every rank sees it.
            loss = loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
        return loss * self.accelerator.num_processes

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch; after the last one of a step, gradients are complete.

        They are averaged over ranks and not clipped yet. A step whose gradients are not finite is skipped.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.has_complete_gradients = False
        if self.accelerator.sync_gradients:
            norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
            # Read back together: each time the host waits for the device.
            asked = torch.as_tensor(self.num_asked_to_stop, device=norm.device)
            is_finite, self.num_asked_to_stop = torch.stack([norm.isfinite(), asked]).tolist()
            self.has_complete_gradients = bool(is_finite)
            if self.has_complete_gradients:
                self.step_log.close_step()
            else:
                self._skip_step()
        return loss

    def _skip_step(self) -> None:
        """Keep the optimizer from a step whose gradients are not finite; one too many in a row ends the run."""
        num_tokens = 0 if self.batch_counts is None else int(self.batch_counts[1])
        self.step_log.skip_step(num_tokens)
        step, in_row = self.state.global_step + 1, self.step_log.num_bad_steps_in_row
        logger.warning(
            "step %d is skipped: gradients are not finite (%d in a row), %d tokens", step, in_row, num_tokens
        )
        if self.accelerator.scaler is None:
            self.model.zero_grad(set_to_none=True)
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

    def begin_step(self) -> None:
        """Before the first micro-batch of a step; subclasses change the student here."""

    def end_step(self) -> None:
        """At the end of a step, before log, evaluate and save."""
        self.batch_counts = None
        follows_steps = type(self.lr_scheduler).__name__ not in _FOLLOWING_METRICS
        if self.accelerator.optimizer_step_was_skipped and follows_steps:
            self.lr_scheduler.step()  # after a gradient scaler's skip Trainer would hold the learning rate's clock
        self.is_stopping = self.stop_request.is_made if self.args.world_size == 1 else bool(self.num_asked_to_stop)
        if self.is_stopping:
            self.control.should_save = self.control.should_training_stop = True

    def end_epoch(self) -> None:
        """At the end of a pass, or after the step at which a rank was asked to stop: then leave, on all ranks."""
        if self.is_stopping:
            # Before Trainer ends the run: it would remove this checkpoint if only the best one may stay.
            step = self.state.global_step
            logger.warning("SIGTERM: checkpoint-%d is saved; go on with resume_from_checkpoint='last'", step)
            self.stop_request.leave()

    def on_resized(self, masks: UnitTensors) -> None:
        """The student has lost units (masks: one bool a unit that it had, True = kept): follow it."""
        self.kept_heads = [heads[masks[head_group(masks, layer)]] for layer, heads in enumerate(self.kept_heads)]
        wrap_again(self.model_wrapped, self.accelerator)

    @property
    def bare_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer itself, without accelerate's wrapper; None before there is one."""
        return self.optimizer.optimizer if isinstance(self.optimizer, AcceleratedOptimizer) else self.optimizer

    # A run from its first step to its last

    def train(self, resume_from_checkpoint: Requested = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or go on where a checkpoint stopped.

        At SIGTERM the step is finished, a checkpoint saved, and the process ends with status 143.

        Args:
            resume_from_checkpoint: a folder or an address on the Hub (`hf://…`); True or `"last"` for the newest one
                in `output_dir`; a [`VerifiedCheckpoint`]; None to start anew.
            args: as in `Trainer.train`.
            kwargs: as in `Trainer.train`.

        Raises:
            ValueError: no checkpoint, a damaged one, or one that was saved without the optimizer; a new run in a
                folder that held files before this trainer was made; or data that are not enough for one step.
        """
        folder = self.run_folder.resolve(resume_from_checkpoint)
        self.resumed_logs = None
        if folder is None:
            self.run_folder.claim()
            if not self.has_started:
                self.start_student()
                self.has_started = True
        set_seed(self.args.seed)  # whatever was drawn since this trainer was made
        with StopRequest() as self.stop_request:
            result = super().train(folder, *args, **kwargs)
        if self.stop_request.is_made:
            self.stop_request.leave()
        if self.state.global_step == 0:
            raise ValueError(
                "the run ended after 0 steps: train_dataset gave fewer rows than a step has "
                f"({self.rows_per_step} = per_device_train_batch_size × gradient_accumulation_steps × ranks; with "
                "dataloader_num_workers each worker of a stream needs its own whole micro-batches); give more rows, "
                "a smaller batch, or fewer workers"
            )
        return result._replace(training_loss=result.metrics["train_loss"])

    def set_initial_training_values(self, args: Any, dataloader: Any) -> Any:
        """As Trainer's, with passes of whole steps, each of a whole global batch; refuses data not enough for one."""
        num_steps = len(dataloader) // args.gradient_accumulation_steps if has_length(dataloader) else None
        if num_steps == 0:
            raise ValueError(
                f"train_dataset has fewer rows than the {self.rows_per_step} of a step (per_device_train_batch_size × "
                "gradient_accumulation_steps × ranks); give more rows or a smaller batch"
            )
        values = super().set_initial_training_values(args, dataloader)
        if num_steps is None:
            return values
        values = list(values)
        max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * num_steps)
        values[0], values[1], values[3] = math.ceil(max_steps / num_steps), num_steps, max_steps * self.rows_per_step
        values[5], values[6] = num_steps * args.gradient_accumulation_steps, max_steps
        return tuple(values)

    def begin_training(self) -> None:
        """The length of the run is known, and Trainer has reset its averages."""
        self._initial_global_step = 0  # newer versions count this session's steps only, older ones all: see log
        self.batch_counts, self.is_stopping = None, False
        self.step_log = StepLog()
        self.epoch_number = int(self.state.epoch or 0)
        if self.resumed_logs is not None:
            # load_state_dict accepts moments of any shape silently, and they step silently.
            check_moments(self.optimizer, self.resumed_from)
            place = {"rank": self.args.process_index, "num_ranks": self.args.world_size}
            self.step_log.load_state_dict(self.resumed_logs, **place, device=self.args.device)
        settle_buckets(self.model_wrapped, self.args.device)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The learning-rate curve tied to pruning, or Trainer's own; arguments and return as Trainer's."""
        if self.lr_scheduler is not None or not self.args.follows_pruning:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = learning_rate_curve(
            self.args, num_training_steps, optimizer or self.optimizer, plan_step=self.plan_step(num_training_steps)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def first_batches(self, *, num_tokens: float = math.inf, num_texts: float = math.inf) -> Iterator[dict[str, Any]]:
        """This rank's share of the first training batches, until all ranks have seen so many; collective.

        Args:
            num_tokens: at least.
            num_texts: at least, of a model whose prediction is one a text.
        """
        batches, seen_tokens, seen_texts = iter(self.get_train_dataloader()), 0, 0
        while seen_tokens < num_tokens and seen_texts < num_texts:
            fetched, _ = self.get_batch_samples(batches, 1, self.args.device)
            if not fetched or self.batch_counts is None or not self.batch_counts[1]:
                return
            seen_texts, seen_tokens = seen_texts + int(self.batch_counts[0]), seen_tokens + int(self.batch_counts[1])
            yield self._prepare_inputs(fetched[0])

    def begin_epoch(self) -> None:
        """A pass over the data begins: it gets masks of its own."""
        if isinstance(self.data_collator, MaskedLMCollator):
            self.data_collator.set_epoch(self.epoch_number)
        self.epoch_number += 1

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        # The one place where loaders are made. Trainer's would share a stream by file and repeat its rows, and would
        # drop rows of an evaluation where training drops them, and mask it by the training's epoch.
        if not kwargs.get("is_training"):
            check_evaluation_stream(dataset, self.args.world_size)
            with self._for_evaluation():
                return super()._get_dataloader(dataset, *args, **kwargs)
        if isinstance(dataset, IterableDataset):
            dataset = WholeBatches(dataset, num_rows=self.args.train_batch_size * self.args.world_size)
        loader = super()._get_dataloader(dataset, *args, **kwargs)
        # Accelerate hands attributes of the loader that it wraps out, but not in.
        inner = loader.base_dataloader if isinstance(loader, DataLoaderAdapter) else loader
        if self.args.dataloader_num_workers:
            inner.worker_init_fn = partial(start_worker, inner.worker_init_fn)
        return loader

    @contextmanager
    def _for_evaluation(self) -> Iterator[None]:
        collator, drops = self.data_collator, self.args.dataloader_drop_last
        self.args.dataloader_drop_last = False
        if isinstance(collator, MaskedLMCollator):
            self.data_collator = copy.deepcopy(collator)
            self.data_collator.set_epoch(0)
            if self.is_masking:  # so that figures compare, whatever the training masks
                self.data_collator.mlm_probability = EVALUATED_PROBABILITY
        try:
            yield
        finally:
            self.data_collator, self.args.dataloader_drop_last = collator, drops

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with every term of the loss, the bad steps and the status beside Trainer's own training logs."""
        if "loss" in logs and "learning_rate" in logs:  # of Trainer: one of the user's own may come on one rank only
            del logs["loss"]  # Trainer's counts skipped steps, and does not survive a resume
            logs |= self.step_log.averages(self.accelerator.reduce)
            logs |= self.step_log.skipped() | self.status()
        if "train_loss" in logs:
            logs["train_loss"] = self.step_log.mean_loss(self.accelerator.reduce)
        if self.resumed_logs is not None and "train_runtime" in logs:
            # Rates count the steps of this session only, whatever part of the run was resumed.
            share = 1 - self.resumed_logs["global_step"] / max(1, self.state.global_step)
            logs |= {name: share * value for name, value in logs.items() if name.endswith("_per_second")}
        super().log(logs, start_time)

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's; the Hub token is in none of the files."""
        token, self.args.hub_token = self.args.hub_token, None  # else it would be in training_args.bin
        try:
            super().save_model(output_dir, _internal_call=True)
        finally:
            self.args.hub_token = token
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Trainer writes straight into checkpoint-N, pushes and rotates before all of it is there.
        if name := first_nonfinite_tensor(self.model, self.bare_optimizer, self.scores_to_save()):
            step = self.state.global_step
            raise FloatingPointError(
                f"{name} is not finite at the end of step {step}, so checkpoint-{step} is not saved; lower "
                f"learning_rate. Last good checkpoint: {last_checkpoint(self.args.output_dir)}"
            )
        run_dir = Path(super()._get_output_dir(trial))
        checkpoint = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        logs = self.step_log.state_dict(partial(gathered, self.accelerator))
        with self.run_folder.staging(checkpoint, wait=self.accelerator.wait_for_everyone) as staged:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            # Trainer looked for the best checkpoint in the staging folder; it will be where this one goes.
            if self.state.best_model_checkpoint == str(staged):
                self.state.best_model_checkpoint = str(checkpoint)
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE_NAME))
                self.write_state(staged, logs | {"global_step": self.state.global_step})
        first_bad_step = self.state.global_step - self.step_log.num_bad_steps_in_row + 1
        good = self.run_folder.last_good_before(first_bad_step) if self.step_log.num_bad_steps_in_row else None
        self.run_folder.rotate(run_dir, keep=[checkpoint, self.state.best_model_checkpoint, good])
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _get_output_dir(self, trial: Any) -> str:
        # Where Trainer writes a checkpoint is the folder in which it is staged.
        return self.run_folder.staged_in or super()._get_output_dir(trial)

    def scores_to_save(self) -> dict[str, torch.Tensor]:
        """Tensors that a subclass keeps in `scores.safetensors`, by name; on the CPU."""
        return {}

    def write_state(self, folder: Path, logs: Mapping[str, Any]) -> None:
        """Add projections, scores, plan, settings and running averages to a staged checkpoint."""
        save_projections(folder, self.model)
        if scores := self.scores_to_save():
            with naming_the_file(folder, file=SCORES_FILE):
                save_file(scores, folder / SCORES_FILE)
        write_json(folder / STATE_FILE, self.state_to_save() | {"logs": dict(logs)}, sort_keys=True)

    def state_to_save(self) -> dict[str, Any]:
        """What a checkpoint tells of the run, as JSON values; subclasses add theirs."""
        return {
            "method": self.method,
            "card": dataclasses.asdict(self.card),
            "student": self.args.student,
            "plan": self.plan.to_dict(),
            "full": self.full.to_dict(),
            "is_finished": self.is_finished,
            "kept_heads": [heads.tolist() for heads in self.kept_heads],
            "settings": settings_that_matter(self.args) | {"rows_per_step": self.rows_per_step},
        }

    def read_state(self, folder: Path) -> dict[str, Any]:
        """Bring the student back to a checkpoint, whatever widths it has now; subclasses bring theirs back.

        Returns:
            `dict`: what `state_to_save` gave, and `logs`.

        Raises:
            ValueError: it belongs to another run or method, or its parameters are not the student's.
        """
        state = read_state(folder)
        self.check_state(state, folder)
        load_student(folder, self.model, optimizer=self.bare_optimizer)
        self.kept_heads = [torch.tensor(heads) for heads in state["kept_heads"]]
        wrap_again(self.model_wrapped, self.accelerator)
        warn_of_other_settings(self.state_to_save()["settings"], state["settings"])
        return state

    def check_state(self, state: Mapping[str, Any], folder: Path) -> None:
        """Refuse a checkpoint of another run before anything is changed; subclasses add what they can't go on with.

        Args:
            state: what `state_to_save` gave, and `logs`.
            folder: of the checkpoint.

        Raises:
            ValueError: it belongs to another run or method.
        """
        check_same_run(state, self.state_to_save(), folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Trainer would load weights into a student of other widths. The optimizer doesn't exist yet.
        check_resumable(resume_from_checkpoint, (OPTIMIZER_NAME, SCHEDULER_NAME))
        self.resumed_from = resume_from_checkpoint
        self.resumed_logs = self.read_state(Path(resume_from_checkpoint))["logs"]
        self.has_started = True

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, *args: Any, **kwargs: Any
    ) -> tuple[int, int]:
        # How long a stream is shows when it ends, so Trainer counts all its passes as one. The epoch does not:
        # it is the number of whole passes, and the batches of this one as a share of those of the whole run.
        epochs, batches = super()._init_training_state(max_steps, num_update_steps_per_epoch, *args, **kwargs)
        if self.resumed_logs is None or has_length(self.train_dataset):
            return epochs, batches
        epochs = int(self.state.epoch)
        num_batches = num_update_steps_per_epoch * self.args.gradient_accumulation_steps
        return epochs, round((self.state.epoch - epochs) * num_batches)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        # An early, unpruned student would always win: only those at the plan compete. With save_strategy="best" the
        # answer says too what is saved, and that SIGTERM has asked for.
        is_best = self.is_finished and super()._determine_best_metric(metrics, trial)
        return is_best or self.is_stopping

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        # Where only the best checkpoint may stay Trainer removes the others file by file, so that a kill in between
        # would leave half of one.
        if self.args.save_total_limit == 1 and (best := self.state.best_model_checkpoint):
            self.run_folder.rotate(Path(self._get_output_dir(trial)), keep=[best])
        return super()._finalize_training(trial, *args, **kwargs)

    def _load_best_model(self) -> None:
        # The best student may have other widths than the last one.
        check_manifest(self.state.best_model_checkpoint)
        self.read_state(Path(self.state.best_model_checkpoint))

    # Evaluation

    @property
    def evaluations(self) -> dict[int, dict[str, float]]:
        """What the run's evaluations on held-out data have measured, by step, without times and prefix."""
        return evaluations_in(self.state.log_history)

    @property
    def held_out_metrics(self) -> dict[str, float]:
        """What the last evaluation has measured, of all evaluation sets."""
        return next(reversed(self.evaluations.values()), {})

    def evaluate_teacher(self) -> Mapping[str, float]:
        """Evaluate the teacher on the held-out blocks, in float32; collective. Exports tell of it from then on.

        Of several evaluation sets each has its name in front.
        """
        several = isinstance(self.eval_dataset, dict)
        self.teacher_evaluation = {}
        for name in self.eval_dataset if several else [None]:
            batches = (self._prepare_inputs(inputs) for inputs in self.get_eval_dataloader(name))
            found = self.held_out.of_teacher(batches)
            self.teacher_evaluation |= {f"{name}_{key}": value for key, value in found.items()} if several else found
        return self.teacher_evaluation

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Trainer's loop, adding `kl`, `mlm_loss`, `mlm_accuracy` (or `task_…`) and kept fractions to the metrics.

        Averages are over predictions, so `loss` is the same whatever the batch size and the number of ranks.
        """
        self.held_out.start()
        wrapped, was_prepared = self.model_wrapped, _PREPARED in vars(self.model)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if not self.is_in_train and not was_prepared:
            # Else a later train() would take the bare model for one that is wrapped for training already.
            self.model_wrapped = wrapped
            self.model.__dict__.pop(_PREPARED, None)
        for name, value in (self.held_out.results() | self.status()).items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """Measure one batch in float32; logits are computed at all positions, and only where they are asked for."""
        inputs = self._prepare_inputs(inputs)
        check_batch(inputs, self.model.config)
        loss = self.held_out.measure(inputs)
        if prediction_loss_only:
            return loss, None, None
        labels = None if loss is None else one_or_all(tuple(inputs[name] for name in self.label_names))
        return loss, self.held_out.logits(inputs, ignore_keys), labels

    # Exports and the Hub

    def export(self, folder: str | Path, format: str = "standard", *, allow_partial: bool = False) -> Path:
        """Write the student to a folder that loads with `from_pretrained`; see [`export_student`].

        To be called on all ranks; the main process writes.

        Args:
            folder: where to; an earlier export there is replaced.
            format: `"standard"` (stock BERT) or `"compact"`.
            allow_partial: also export a student that has not reached its plan, at the nearest possible widths.

        Raises:
            ValueError: the plan has not been reached, or the folder holds something else.
        """
        self.check_finished(allow_partial=allow_partial)  # on all ranks, or some would wait for ever
        if self.is_world_process_zero():
            self.publisher.write_export(Path(folder), format, allow_partial=allow_partial)
        self.accelerator.wait_for_everyone()
        return Path(folder)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository of the run, on the main process."""
        if self.is_world_process_zero():
            self.hub_model_id = self.publisher.create_repo(token=token, private=private)

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

        Raises:
            ValueError: the student has not reached its plan.
            HubError: the Hub refused or can't be reached; the student is in `OUTPUT_DIR/student`.
        """
        self.check_finished(allow_partial=False)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        where = {"token": token, "revision": revision, "private": private}
        push = self.publisher.student_push(commit_message=commit_message or "End of training", tags=tags, **where)
        return push() if blocking else HfApi().run_as_future(push)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # Trainer pushes its own files as they lie there, pickles among them, and before they are complete.
        is_wanted = self.args.hub_strategy != HubStrategy.END and self.run_folder.staged_in is None
        if is_wanted and self.is_world_process_zero():
            self.push_in_progress = self.publisher.push_aside(Path(checkpoint_folder))


class _Moments(TrainerCallback):
    """The moments of a step that Trainer offers as callbacks only."""

    def __init__(self, trainer: DistillationTrainer):
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
