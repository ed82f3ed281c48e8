"""HomoDistil as a `Trainer`: prune the student a little at a time while distilling it from the model it started as.

One optimizer step, in order: teacher forward, student forward, loss terms, backward (`compute_loss`); complete
gradients → scores (`training_step`); clip, step, dropped units back to zero, masks and compaction (`_StepCallback`);
log, evaluate, save (Trainer). Each stage has a file of its own; this one knows about settings, devices and ranks.
"""

import dataclasses
import inspect
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast, is_compiled_module
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback, set_seed

from .data.masking import MaskedLMCollator
from .distillation.objective import Distillation, check_weights
from .distillation.tasks import task_of
from .distillation.teacher import FrozenTeacher
from .export.card import HOMODISTIL
from .export.facts import CARD_SECTION
from .files.checkpoints import last_checkpoint, sorted_checkpoints
from .files.folders import remove_folder
from .files.messages import nearest_name, shown
from .models.widths import WidthPlan
from .pruning.pruner import Pruner
from .pruning.rotation import head_moments, rotate_heads, rotated_layers
from .pruning.saved_state import (
    METHOD_KEY,
    load_run_state,
    poisoned_tensor,
    save_run_state,
    weights_without_projections,
)
from .pruning.schedule import LEARNING_RATE_HOLD_FRACTION, PruningSchedule, pruning_learning_rate
from .training.checks import (
    check_arguments,
    check_data,
    check_free,
    check_output_dir,
    existing_files,
    pin_data_order,
)
from .training.micro_batches import activation_bytes, num_parts, split_rows
from .training.own_optimizer import adopt_optimizer, check_optimizer
from .training.publishing import PublishingTrainer
from .training.ranks import check_launch, check_shared_folder, names_on_all_ranks, on_every_rank
from .training.resumable import Requested
from .training.setup import discrepancy_guard, masking_collator, prepare, pruning_settings
from .training.step_log import AccountingTrainer
from .training.student_plan import STUDENT_KEY, Goal, resolve_goal
from .training_args import LOSS_TERMS, PRUNING_KINDS, HomoDistilTrainingArguments

logger = logging.getLogger(__name__)

EXAMPLE_ID = "example_id"
"""Column that numbers the rows of masked-LM data."""


_NUM_ROTATION_TOKENS = 8192


class HomoDistilTrainer(PublishingTrainer, AccountingTrainer):
    """Distils and prunes a BERT-family model; everything else is `transformers.Trainer`.

    Args:
        model: the teacher: Hub name, folder, or a loaded model. The student starts as its copy.
        args: the run's settings.
        teacher: who the student learns from, if not a frozen copy of `model`; a `trainer.model` that an earlier run
            has left goes on with the projections that it has learned.
        goal: what `args.student` names, where that is resolved already.
        processing_class: tokenizer; saved with checkpoints and exports.
        data_collator: default for masked-LM models: [`MaskedLMCollator`]; for others Trainer's.
        kwargs: as in `transformers.Trainer` (`train_dataset`, `eval_dataset`, `callbacks`, `compute_metrics`, …). An
            optimizer in `optimizers` is made from the parameters of `model` and will hold the student's.

    Raises:
        ValueError: anything that would fail later: impossible plan, unsupported model or setting, mismatched
            tokenizer, empty data, unwritable output folder.

    Example:
    ```python
    trainer = HomoDistilTrainer(
        model="google-bert/bert-base-uncased",
        args=HomoDistilTrainingArguments(output_dir="out", student="homobert-tiny", max_steps=28_000),
        train_dataset=train, eval_dataset=held_out, processing_class=tokenizer,
    )
    trainer.train()
    trainer.export("homobert-tiny")
    ```
    """

    method = "homodistil"
    card = HOMODISTIL
    has_all_layers = True
    """Whether the student has as many layers as its teacher."""
    args: HomoDistilTrainingArguments
    schedule: PruningSchedule
    lr_scheduler: Any
    _signature_columns: list[str]
    has_prepared_heads = False
    matched_layers: Sequence[int] | None = None
    """The teacher's layer for each of the student's, where the teacher has more."""

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: HomoDistilTrainingArguments,
        *,
        teacher: str | PreTrainedModel | None = None,
        goal: Goal | None = None,
        processing_class: Any = None,
        data_collator: Any = None,
        **kwargs: Any,
    ):
        check_arguments(args, kwargs)
        check_launch(args)
        on_every_rank(lambda: check_output_dir(args.output_dir))
        self.earlier_files = names_on_all_ranks(existing_files(args.output_dir))
        check_shared_folder(args.output_dir, save_on_each_node=args.save_on_each_node)
        resolve = self.goal_of if goal is None else lambda *_: goal
        parts = prepare(model, args, teacher=teacher, resolve=resolve, matched_layers=self.matched_layers)
        check_data(
            {name: kwargs.get(name) for name in ("train_dataset", "eval_dataset")},
            processing_class,
            parts.student.config,
        )
        pin_data_order(args)
        if data_collator is None and task_of(parts.student).name == "mlm":
            data_collator = masking_collator(processing_class, args)
        super().__init__(
            model=parts.student, args=args, processing_class=processing_class, data_collator=data_collator, **kwargs
        )
        self._check_own_optimizer(None if isinstance(model, str) else model)
        self.loss_is_scaled_for_ga = True
        self.pruner = Pruner(
            self.model,
            parts.plan,
            settings=pruning_settings(args),
            guard=discrepancy_guard(args),
        )
        self.distillation = self.make_distillation(parts.teacher.to(args.device))
        if args.torch_compile:
            self.distillation.teacher.compile(**self.accelerator.state.dynamo_plugin.to_kwargs())
        self.batch_counts: torch.Tensor | None = None
        self.step_loss: torch.Tensor | None = None
        self.epoch_number = 0
        self.open_accounts()
        self.num_asked_to_stop = torch.zeros(())
        # First in line, so that users' callbacks see the step as it ends.
        self.callback_handler.callbacks.insert(0, _StepCallback(self))
        self._warn_of_foreign_masks()
        # No rank may write into output_dir before all have seen what was there.
        self.accelerator.wait_for_everyone()

    def _warn_of_foreign_masks(self) -> None:
        if self.distillation.task.name == "mlm" and not isinstance(self.data_collator, MaskedLMCollator):
            logger.warning(
                "data_collator=%s draws its masks from a global generator: evaluations differ from each other and a "
                "resumed run is not bit-identical; homodistil_hf.MaskedLMCollator draws them from seed, epoch and row",
                type(self.data_collator).__name__,
            )

    def _check_own_optimizer(self, model: nn.Module | None) -> None:
        if self.optimizer is not None:
            adopt_optimizer(self.optimizer, model, self.model)
            check_optimizer(self.optimizer)
        elif self.optimizer_cls_and_kwargs is not None:
            optimizer_class, settings = self.optimizer_cls_and_kwargs
            check_optimizer(optimizer_class([nn.Parameter(torch.zeros(1, device=self.args.device))], **settings))

    def make_distillation(self, teacher: FrozenTeacher) -> Distillation:
        """The terms of the loss; other methods have others.

        Args:
            teacher: on this process's device.

        Returns:
            [`Distillation`].

        Raises:
            ValueError: none of the terms that a student of this task has counts.
        """
        weights = {name: getattr(self.args, f"{name}_weight") for name in LOSS_TERMS}
        check_weights(weights, self.model)
        return Distillation(
            self.model,
            teacher,
            weights=weights,
            kept_heads=self.pruner.kept_heads,
            matched_layers=self.matched_layers,
        )

    @property
    def plan(self) -> WidthPlan:
        """The widths that the student is on its way to."""
        return self.pruner.target

    # The method

    @classmethod
    def goal_of(cls, args: HomoDistilTrainingArguments, config: PreTrainedConfig) -> Goal:
        """Resolve what `args.student` names; collective for a latency budget.

        Args:
            args: the run's settings.
            config: the teacher's.

        Returns:
            [`Goal`].

        Raises:
            ValueError: no such students of this teacher, or none that the method could make.
        """
        return resolve_goal(args, config, has_all_layers=cls.has_all_layers)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """Why the method can't make a student of a plan's size from a teacher; a sweep skips such a cell and names it.

        Args:
            plan: what `student` asks for.
            teacher: the teacher's widths.

        Returns:
            `str`, or None where it can.
        """
        return None

    @classmethod
    def check_possible(cls, plan: WidthPlan, teacher: WidthPlan) -> None:
        """Refuse a student that the method can't make; arguments as [`HomoDistilTrainer.impossible_reason`].

        Raises:
            ValueError: there is a reason.
        """
        if (reason := cls.impossible_reason(plan, teacher)) is not None:
            raise ValueError(f"method={cls.method!r} is impossible for this student: {reason}")

    @classmethod
    def default_settings(cls) -> dict[str, Any]:
        """The settings that the method has beside those of every run: name → default."""
        shared = inspect.signature(HomoDistilTrainer.__init__).parameters
        own = inspect.signature(cls.__init__).parameters
        return {
            name: entry.default
            for name, entry in own.items()
            if entry.kind is inspect.Parameter.KEYWORD_ONLY and name not in shared
        }

    @classmethod
    def check_method_settings(cls, settings: Mapping[str, Any]) -> None:
        """Refuse settings that the method doesn't take.

        Args:
            settings: name → value.

        Raises:
            ValueError: an unknown name; the message names the nearest.
        """
        valid = cls.default_settings()
        for name, value in settings.items():
            if name not in valid:
                nearest = f"nearest valid: {nearest_name(name, valid)!r}" if valid else "it has none of its own"
                raise ValueError(
                    f"method_settings of {cls.method!r} have the unknown key {shown(name)} ({shown(value)}); {nearest}"
                )

    # Before the first step

    def train(self, resume_from_checkpoint: Requested = None, *args: Any, **kwargs: Any) -> Any:
        """Train; arguments and return as [`ResumableTrainer.train`].

        Raises:
            ValueError: `output_dir` held files before this trainer was made, and the run neither resumes nor may
                overwrite.
        """
        is_new = not resume_from_checkpoint
        if is_new:
            self._claim_output_folder()
        self.prepare_student(is_new=is_new)
        set_seed(self.args.seed)  # whatever was drawn since this trainer was made
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _claim_output_folder(self) -> None:
        check_free(self.args, self.earlier_files)
        # Else "the last checkpoint" would be the older run's, and save_total_limit would remove this run's.
        is_remover = self.args.should_save and self.earlier_files
        for checkpoint in sorted_checkpoints(self.args.output_dir) if is_remover else ():
            logger.warning("overwrite_output_dir: %s of an earlier run is removed", checkpoint)
            remove_folder(checkpoint)

    def prepare_student(self, *, is_new: bool) -> None:
        """Make the student ready for its first step.

        Args:
            is_new: not of a run that resumes; a checkpoint has a student that is ready.
        """
        self.prepare_heads(is_new=is_new)

    def prepare_heads(self, *, is_new: bool) -> None:
        """With `rotate_heads`: choose the bases inside heads, once; as [`HomoDistilTrainer.prepare_student`]."""
        if not self.args.rotate_heads or self.has_prepared_heads:
            return
        self.has_prepared_heads = True
        layers = rotated_layers(self.pruner.present, self.plan) if is_new else []
        if not layers:
            return
        moments = head_moments(self.model, self._first_batches(_NUM_ROTATION_TOKENS), layers)
        if self.args.world_size > 1:
            moments = {layer: self.accelerator.reduce(found.to(self.args.device)) for layer, found in moments.items()}
        rotate_heads(self.model, moments)
        for parameter in self.model.parameters():  # machines may differ in the last bits
            broadcast(parameter.data)
        logger.info("bases inside heads are chosen in %d layers", len(layers))

    def _first_batches(self, num_tokens: int) -> Iterator[dict[str, Any]]:
        """This rank's share of the first training batches, until all ranks have seen so many tokens."""
        batches, num_seen = iter(self.get_train_dataloader()), 0
        while num_seen < num_tokens:
            fetched, _ = self.get_batch_samples(batches, 1, self.args.device)
            if self.batch_counts is None or not self.batch_counts[1]:
                return
            num_seen += int(self.batch_counts[1])
            if not self.repeats_only:
                yield from (self._prepare_inputs(batch) for batch in fetched)

    # One optimizer step

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """Fetch the micro-batches of one step, and count what they hold over all of them and all ranks.

        Args:
            epoch_iterator: of the data loader.
            num_batches: micro-batches a step.
            device: of the counts.

        Returns:
            `(batches, number of predictions)`. At the end of a stream, micro-batches too few for a step are left out.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = self.without_repeats(batches if len(batches) == num_batches else [])
        # A fourth number travels along, so that all ranks hear of a SIGTERM without a message of its own.
        counts = torch.zeros(4, dtype=torch.float64, device=device)
        counts[3] = float(self.stop_request.is_made)
        for batch in batches:
            self._check_labels(batch)
        for batch in batches[:-1] if self.repeats_only else batches:
            counts[:3] += self.distillation.count(batch).to(device)
        counts = self.accelerator.reduce(counts, reduction="sum")
        self.batch_counts, self.num_asked_to_stop = counts[:3], counts[3]
        return batches, self.batch_counts[0]

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if isinstance(self.data_collator, MaskedLMCollator):
            # The model takes no row number, but a row's masks are drawn from it.
            self._signature_columns = list(dict.fromkeys([*self._signature_columns, EXAMPLE_ID]))

    def _check_labels(self, batch: dict[str, Any]) -> None:
        missing = [name for name in self.distillation.task.required_labels if name not in batch]
        if missing:
            raise ValueError(
                f"a training batch has {', '.join(sorted(batch))}, but not {', '.join(missing)}; check the columns of "
                f"train_dataset and the data_collator ({type(self.data_collator).__name__})"
            )
        labels = batch.get("labels")
        if self.distillation.task.has_classes and labels is not None and labels.is_floating_point():
            raise ValueError(
                f"labels of type {labels.dtype} don't fit a task of single classes; set config.problem_type of the "
                "model to 'multi_label_classification' or 'regression', or make the labels integers"
            )

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The distillation loss of one micro-batch, see [`Distillation.total`].

        It is this micro-batch's share of the average over the global batch, times the number of ranks, because DDP
        averages gradients.

        Args:
            model: the student as it is wrapped.
            inputs: a batch with labels.
            return_outputs: also return the student's output.
            num_items_in_batch: unused; `get_batch_samples` has counted predictions, tokens and pairs.

        Returns:
            `torch.Tensor`: scalar, float32; with `return_outputs` a tuple of it and the output.
        """
        counts = self.distillation.count(inputs) if self.batch_counts is None else self.batch_counts
        terms, outputs = self.distillation.terms(model, inputs, counts, autocast=self.accelerator.autocast)
        if self.repeats_only and self.accelerator.sync_gradients:  # the last micro-batch of a pass
            terms = {name: 0.0 * term for name, term in terms.items()}
        loss = self.distillation.total(terms) * self.accelerator.num_processes
        if model.training:
            self.take_in(terms)
            # A loss that is not finite may have finite gradients; the factor spoils them, so that every rank sees it.
            loss = loss * torch.where(loss.detach().isfinite(), 1.0, math.nan)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch; after the last one of a step, gradients become scores.

        Args:
            model: as Trainer wrapped it when training began; a compaction may have wrapped it anew since.
            inputs: one micro-batch.
            num_items_in_batch: passed on.

        Returns:
            `torch.Tensor`: the loss of all micro-batches of this step, detached; 0 before the last one, and for a step
            that is skipped, so that running averages survive.
        """
        is_last = self.accelerator.sync_gradients
        parts = self._parts(inputs)
        for number, part in enumerate(parts, start=1):
            accumulates = self._is_distributed and not (is_last and number == len(parts))
            with self.accelerator.no_sync(self.model_wrapped) if accumulates else nullcontext():
                loss = super().training_step(self.model_wrapped, part, num_items_in_batch)
            self.step_loss = loss if self.step_loss is None else self.step_loss + loss
        if not is_last or self.step_loss is None:
            return torch.zeros_like(loss)
        step_loss, self.step_loss = self.step_loss, None
        return step_loss if self._take_gradients() else torch.zeros_like(loss)

    def _parts(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """As many rows at a time as the budget for activations allows."""
        tokens_BT = inputs.get("input_ids")
        if tokens_BT is None or self.args.gradient_checkpointing:
            return [inputs]
        bytes_per_token = activation_bytes(
            self.pruner.present,
            length=tokens_BT.shape[1],
            teacher_size=self.distillation.teacher.exact.config.hidden_size,
            matrix_bytes=2 if self.args.bf16 or self.args.fp16 else 4,
        )
        number = num_parts(tokens_BT.numel(), bytes_per_token, budget_mb=self.args.activation_budget)
        return [inputs] if number == 1 else split_rows(inputs, number)

    def _take_gradients(self) -> bool:
        """Gradients are complete, averaged over ranks and not clipped: score the units, or drop a bad step."""
        norm = nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])
        if not bool(norm.isfinite()):
            self.drop_bad_step(num_tokens=0 if self.batch_counts is None else int(self.batch_counts[1]))
            return False
        terms, scaler = self.close_step(), self.accelerator.scaler
        self.pruner.score(gradient_scale=1.0 if scaler is None else scaler.get_scale())
        if self.pruner.guard is not None and "kl" in terms:
            self.pruner.guard.observe(float(self.accelerator.reduce(terms["kl"], reduction="sum")))
        return True

    def finish_step(self) -> None:
        """At the end of a step, before log, evaluate and save: choose masks, compact."""
        if self.accelerator.optimizer_step_was_skipped and not _follows_metrics(self.lr_scheduler):
            self.lr_scheduler.step()  # after a gradient scaler's skip Trainer would hold the learning rate's clock
        self.agree_to_stop(self.num_asked_to_stop)
        before = self.pruner.choices_digest
        compacted = self.pruner.step(self.state.global_step, self.schedule, optimizer=self._bare_optimizer())
        if self.pruner.choices_digest != before:
            self._check_ranks()
        if compacted:
            logger.info("step %d: compacted to %s", self.state.global_step, self.pruner.present.to_json())
            self._wrap_again()

    def _bare_optimizer(self) -> torch.optim.Optimizer | None:
        return self.optimizer.optimizer if isinstance(self.optimizer, AcceleratedOptimizer) else self.optimizer

    def _check_ranks(self) -> None:
        digest = torch.tensor(list(self.pruner.choices_digest), device=self.args.device)
        digests = self.accelerator.gather(digest[None])
        if not bool((digests == digests[0]).all()):
            raise RuntimeError(
                f"masks differ across ranks after step {self.state.global_step}; all ranks must run the same versions "
                f"on the same settings. Last good checkpoint: {last_checkpoint(self.args.output_dir)}"
            )

    def _wrap_again(self) -> None:
        """Parameters are new: DDP must reduce those, and compiled code must forget the old widths."""
        if self.args.torch_compile:
            torch.compiler.reset()
        if not self._is_distributed:
            return
        handler = self.accelerator.ddp_handler
        device_ids = None if self.args.device.type == "cpu" else [self.args.device.index]
        settings = {} if handler is None else handler.to_kwargs()
        self.model_wrapped = DistributedDataParallel(self.model, device_ids=device_ids, **settings)
        if handler is not None:
            handler.register_comm_hook(self.model_wrapped)
        self.settle_buckets(self.model_wrapped)
        if self.args.torch_compile:
            settings = self.accelerator.state.dynamo_plugin.to_kwargs()
            self.model_wrapped = cast(nn.Module, torch.compile(self.model_wrapped, **settings))

    @property
    def _is_distributed(self) -> bool:
        return self._ddp is not None

    @property
    def _ddp(self) -> DistributedDataParallel | None:
        wrapped = self.model_wrapped
        bare = wrapped._orig_mod if is_compiled_module(wrapped) else wrapped
        return bare if isinstance(bare, DistributedDataParallel) else None

    # Learning rate and logs

    def begin_training(self) -> None:
        """Training begins and the length of the run is known: lay out the schedule, restore running averages."""
        self.schedule = self._schedule(self.state.max_steps)
        self.step_loss = None
        self.open_accounts()
        self.epoch_number = int(self.state.epoch or 0)
        self.restore_log_state()
        if self._ddp is not None:
            self.settle_buckets(self._ddp)

    def begin_epoch(self) -> None:
        """A pass over the data begins: it gets masks of its own."""
        if isinstance(self.data_collator, MaskedLMCollator):
            self.data_collator.set_epoch(self.epoch_number)
        self.epoch_number += 1

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The learning-rate curve tied to pruning, or Trainer's own.

        Args:
            num_training_steps: T.
            optimizer: default: the trainer's.

        Returns:
            The scheduler.
        """
        if self.lr_scheduler is not None or not self.args.follows_pruning:
            return super().create_scheduler(num_training_steps, optimizer)
        warmup_steps = self.args.get_warmup_steps(num_training_steps)
        held = self.args.learning_rate_hold_fraction
        if held is None:
            end_step = max(
                self._schedule(num_training_steps).end_step, LEARNING_RATE_HOLD_FRACTION * num_training_steps
            )
        else:
            end_step = held * num_training_steps

        def factor(step: int) -> float:
            return pruning_learning_rate(
                step, warmup_steps=warmup_steps, end_step=end_step, total_steps=num_training_steps
            )

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _schedule(self, total_steps: int) -> PruningSchedule:
        windows = {kind: self.args.pruning_window(kind) for kind in PRUNING_KINDS}
        return PruningSchedule(windows, self.args.pruning_interval_steps, total_steps)

    def status(self) -> dict[str, float]:
        """Kept fractions and compactions; see [`Pruner.status`]."""
        return self.pruner.status()

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if name := poisoned_tensor(self.model, self.pruner, self._bare_optimizer()):
            step = self.state.global_step
            raise FloatingPointError(
                f"{name} is not finite at the end of step {step}, so checkpoint-{step} is not saved; lower "
                f"learning_rate. Last good checkpoint: {last_checkpoint(self.args.output_dir)}"
            )
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, weights_without_projections(self.model) if state_dict is None else state_dict)

    def write_state(self, folder: Path, logs: Mapping[str, Any]) -> None:
        """Add projections, masks, scores, guard and counters to a checkpoint.

        Args:
            folder: the staged checkpoint.
            logs: what `log_state` gave.
        """
        extra = {**logs, STUDENT_KEY: self.args.student, METHOD_KEY: self.method}
        extra[CARD_SECTION] = dataclasses.asdict(self.card)
        save_run_state(folder, self.model, self.pruner, extra=extra)

    def read_state(self, folder: Path) -> dict[str, Any]:
        """Rebuild the student at a checkpoint's widths, with masks, scores, guard and counters.

        Args:
            folder: a checked checkpoint.

        Returns:
            `dict`: what `log_state` gave.
        """
        optimizer = self._bare_optimizer()
        logs = load_run_state(folder, self.model, self.pruner, method=self.method, optimizer=optimizer)
        self._wrap_again()
        return logs


class _StepCallback(TrainerCallback):
    """The moments of a step that Trainer offers as callbacks only."""

    def __init__(self, trainer: HomoDistilTrainer):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_training()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.begin_epoch()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.pruner.zero()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.finish_step()


def _follows_metrics(scheduler: Any) -> bool:
    return type(scheduler).__name__ in ("ReduceLROnPlateau", "GreedyLR")
