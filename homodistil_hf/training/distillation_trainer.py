"""An `ExactTrainer` whose model is a student beside its frozen teacher; subclasses decide how the student shrinks.

This file holds the student, the loss, the held-out evaluation, exports and the Hub. `exact_trainer.py` holds the loop,
the logs and the checkpoints; pruning is in `trainer.py` of the package. What an export needs (cards, facts, report,
Hub, clocks) is imported where a run writes one, so that training loads none of it.
"""

import dataclasses
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import DynamoBackend
from huggingface_hub import HfApi
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import (
    DataCollatorForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    TrainerCallback,
)
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..data.masking import EVALUATED_PROBABILITY, MaskedLMCollator, ReplacedTokensCollator
from ..distillation.objective import DistillationLoss, Terms
from ..distillation.tasks import ONE_A_TOKEN, Task, activation_name, task_of
from ..distillation.teacher import FrozenTeacher
from ..export.facts import MethodCard
from ..files.checkpoints import STATE_FILE
from ..files.provenance import public_name
from ..files.run_names import STUDENT_FOLDER
from ..files.settings import refuse_without_part
from ..models.architectures.architecture import PROJECTIONS
from ..models.conversion import to_stock
from ..models.loading import plain_name
from ..models.saved_student import load_student, save_projections
from ..models.tokenizers import check_words_of_model
from ..models.units import UnitTensors, head_group
from ..models.widths import WidthPlan, kept_fractions, widths_of
from ..training_args import DistillationArguments, own_arguments
from . import raw_rows
from .evaluation_loop import HeldOutEvaluation, both_evaluations, evaluations_in, one_or_all
from .exact_trainer import ExactTrainer
from .learning_rate import default_task_rate, learning_rate_curve, measured_learning_rate, row_length_of
from .pair import Origins, ProjectionInit, adopt_optimizer, prepare, resolve_student
from .ranks import check_launch, on_every_rank, wrap_again
from .row_checks import check_data, check_label_rows, check_labels, checked_batch
from .run_folder import check_output_dir

logger = logging.getLogger(__name__)

_OF_ROWS = ("kind", "text_columns", "num_labelled_eval_rows")
"""What was understood of a task's rows that goes into the facts."""
_COPY = re.compile("an? (?:exact )?copy of its teacher")

EXAMPLE_ID = "example_id"
"""Column that numbers the rows of masked-LM data."""
_MEASURED = "measured"
_PREPARED = "_is_accelerate_prepared"
STEPS_OF_COMPILING = 3
"""Steps of a run until what compiling took is logged."""


class DistillationTrainer(ExactTrainer):
    """Trains a student beside its frozen teacher; else it behaves as `transformers.Trainer`.

    A resumed run is the uninterrupted one, bit for bit. A subclass sets `method` and `card`, and may override what
    stands below under "What a method decides", and of `ExactTrainer` `start_student` (how the student starts) and
    `begin_step` (how it changes). The constructor, whose arguments `HomoDistilTrainer` documents, is the same for all
    methods.

    Raises:
        ValueError: anything that would fail later: impossible plan, unsupported model or setting, mismatched
            tokenizer, empty data, unwritable output folder.
    """

    # What a method decides: these attributes, and the hooks that follow

    method: ClassVar[str]
    """Name by which configs choose it."""
    card: MethodCard
    """The method's part of the model card."""
    arguments_class: ClassVar[type[DistillationArguments]] = DistillationArguments
    """Class of the method's settings."""
    reported_metrics: ClassVar[tuple[str, ...]] = ("kl", "mlm_loss", "mlm_accuracy")
    """Held-out metrics of student and teacher that a run's results report."""
    learning_rate_share = 1.0
    """Factor of the default learning rate, for methods that need less."""
    needs_head = True
    """Whether encoders without a head are refused."""
    starts_with_all_layers = True
    """Whether a new student has its teacher's layers; else `start_from` leaves some out, whatever the plan has."""
    allows_fewer_layers: ClassVar[bool] = False
    """Whether a plan may name fewer layers than the teacher has; the method removes the others at some time."""
    matched_layers: Sequence[int] | None = None
    """The teacher's layer to compare each of the student's with; None: the same one, as both have equally many."""

    # What a run fills in

    args: DistillationArguments
    distillation: DistillationLoss
    state_file = STATE_FILE
    row_reader: raw_rows.RawReader | None = None
    """Reader of raw rows; None until raw rows were given."""
    rows_facts: Mapping[str, Any] = {}
    """What a run understood of the rows of a task, for its results."""
    gradings: Sequence[tuple[Any, raw_rows.Grading]] = ()
    """Held-out sets whose rows are graded as wholes, such as questions, each with its grading."""
    own_evaluations: dict[int, dict[str, float]]
    """Step → metrics of `eval_dataset`, without those of other rows."""
    _saved_evaluations: dict[int, dict[str, float]] | None = None
    step_measured: int | None = None
    """The last of them, or that of the best model."""
    measures_own = True
    """Whether the evaluation in hand may be of `eval_dataset`: not where it is known to be of other rows."""
    step_of_weights: int | None = None
    """Where the best model was loaded, the step that its weights are of."""
    teacher_evaluation: Mapping[str, float] = {}
    """Held-out metrics of the teacher, once `evaluate_teacher` has measured them."""
    started_as: str | None = None
    """Name of the model that the student started as a copy of, if it isn't the teacher; for the card."""
    about: Mapping[str, Mapping[str, Any]] = {}
    """Sections of facts that its caller knows better: names of data, settings as they were given."""
    latency: tuple[Any, dict[str, Any]] | None = None
    """Format and widths of the student whose passes were timed, and the times."""
    push_in_progress: PushInProgress | None = None
    compiled_with: Mapping[str, Any] | None = None
    """Arguments of `torch.compile`; None where nothing is compiled."""

    # Hooks of a method

    def start_from(
        self, model: str | PreTrainedModel, teacher_model: str | PreTrainedModel | None, plan: WidthPlan | None
    ) -> Origins:
        """What the student starts from, who it learns from and its plan; a method may leave out layers here.

        `self.args` is the run's own copy of the settings by then. Arguments as in the constructor.
        """
        return model, teacher_model, plan

    def tokenizer_of(self, processing_class: Any) -> Any:
        """The tokenizer of the run, where the model brings one."""
        return processing_class

    def reader_of(self, data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> raw_rows.RawReader | None:
        """The reader of raw rows; arguments and errors as [`raw_rows.reader_of`]."""
        return raw_rows.reader_of(data, tokenizer, model)

    def default_collator(self, task: Task, tokenizer: Any, config: PreTrainedConfig) -> Any:
        """Where the user gives no collator: one that masks words, or pads labels of tokens; else None, Trainer's."""
        if not task.is_pretraining:
            pads_labels = task.num_values == ONE_A_TOKEN and isinstance(tokenizer, PreTrainedTokenizerBase)
            return DataCollatorForTokenClassification(tokenizer) if pads_labels else None
        collator = ReplacedTokensCollator if task.has_one_logit else MaskedLMCollator
        return collator(tokenizer, mlm_probability=self.args.mlm_probability, seed=self.args.seed)

    def default_learning_rate(self, task: Task, teacher_config: PreTrainedConfig, train_dataset: Any) -> float:
        """The peak rate where none is given, of masked words by the measured rule, of tasks a fixed one; logs it."""
        hidden_size = teacher_config.hidden_size
        if not task.is_pretraining:
            return default_task_rate(hidden_size)
        return measured_learning_rate(
            self.args,
            row_length=row_length_of(train_dataset),
            hidden_size=hidden_size,
            share=self.learning_rate_share,
        )

    @property
    def projection_init(self) -> ProjectionInit:
        """Start of the projections student → teacher; random for students that don't start as their teacher."""
        return "random"

    def set_up_student(self) -> None:
        """What a method adds to the student once model, loss and settings are there; nothing by default."""

    def plan_step(self, num_training_steps: int) -> float:
        """The step at which the student has its plan's widths; 0 if it has them from the start on."""
        return 0.0

    @classmethod
    def plan_of(cls, args: DistillationArguments, config: PreTrainedConfig) -> WidthPlan:
        """Resolve what `args.student` names; collective for a latency budget.

        Raises:
            ValueError: no such student, or none that the method could make.
        """
        return resolve_student(args, config, starts_with_all_layers=cls.starts_with_all_layers)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """The reason why the method can't make a student of such a plan from a teacher, or None; sweeps skip it."""
        if cls.allows_fewer_layers or len(plan.layers) == len(teacher.layers):
            return None
        return (
            f"the plan has {len(plan.layers)} layers, but this method keeps the teacher's {len(teacher.layers)}; "
            "leave their number out, or take a method that removes layers, such as homodistil"
        )

    @classmethod
    def check_possible(cls, plan: WidthPlan, teacher: WidthPlan) -> None:
        """Refuse a student that the method can't make; arguments as [`DistillationTrainer.impossible_reason`]."""
        if (reason := cls.impossible_reason(plan, teacher)) is not None:
            raise ValueError(f"method={cls.method!r} is impossible for this student: {reason}")

    def make_distillation(self, teacher: FrozenTeacher) -> DistillationLoss:
        """The terms of the loss, HomoDistil's by default; refuses weights if no term of the student counts."""
        weights, foreign = self.args.loss_weights(), "task" if task_of(self.model).name == "mlm" else "mlm"
        if not any(weight for name, weight in weights.items() if name != foreign):
            names = ", ".join(f"{name}_weight" for name in weights if name != foreign)
            raise ValueError(
                f"{names} are 0, all that count for a {type(self.model).__name__}, so nothing would be learnt; set "
                "kl_weight=1.0, for instance"
            )
        return DistillationLoss(
            self.model,
            teacher,
            weights=self.args.loss_weights(),
            kept_heads=self.matched_heads,
            matched_layers=self.matched_layers,
        )

    def make_evaluation(self) -> HeldOutEvaluation:
        """The measurement of held-out batches; subclasses with another kind of prediction return their own."""
        return HeldOutEvaluation(self.model, self.distillation.teacher, self.distillation.task, self.accelerator)

    # The parts of a run

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
        self.made_with = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        self.own_evaluations = {}
        if compute_loss_func is not None:
            raise ValueError(
                f"compute_loss_func={compute_loss_func!r} would replace the distillation loss; leave it out, "
                "and weight the loss's terms with the settings that end in _weight"
            )
        if model_init is not None:
            raise ValueError(
                f"model_init={model_init!r} would replace the student, which starts from model; leave it out; "
                "each trial of hyperparameter_search starts from model, too"
            )
        # settings, ranks and folder first: what they refuse costs no time
        self.args = args = own_arguments(args, self.arguments_class)
        check_launch(args)
        args.pin_data_order()
        on_every_rank(lambda: check_output_dir(args.output_dir))
        origin, teacher_origin, resolved = self.start_from(plain_name(model), plain_name(teacher_model), plan)
        student, teacher, self.plan = prepare(
            origin,
            args,
            teacher=teacher_origin,
            resolve=self.plan_of if resolved is None else lambda *_: resolved,
            matched_layers=self.matched_layers,
            needs_head=self.needs_head,
            projection_init=self.projection_init,
        )
        is_other = teacher_model is not None and teacher_model is not model and teacher_model != model
        if is_other and self.started_as is None and _COPY.search(self.card.how):
            self.started_as = public_name(student.name_or_path) or "a model in memory"
        self.full = widths_of(student.config)
        if len(self.plan.layers) < len(self.full.layers):
            self.check_possible(self.plan, self.full)
        self.kept_heads = [torch.arange(layer.num_attention_heads) for layer in self.full.layers]
        task, config, teacher_config = task_of(student), student.config, teacher.exact.config
        # rows that the student can read, and settings that follow from its task
        processing_class = self.tokenizer_of(processing_class)
        data: Mapping[str, Any] = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        if data_collator is None:
            data, self.gradings = self._tokenized(data, processing_class, student)
        check_data(data, processing_class, config)
        if isinstance(processing_class, PreTrainedTokenizerBase):
            check_words_of_model(processing_class, teacher_config)
        self._refuse_settings_without_part(task, masks_words=data_collator is None)
        if args.learning_rate is None:
            args.learning_rate = self.default_learning_rate(task, teacher_config, data["train_dataset"])
        self.is_masking = data_collator is None and task.is_pretraining
        if data_collator is None:
            data_collator = self.default_collator(task, processing_class, config)
        # labels are looked at before training: a wrong one far behind would stop it late
        classes = [word for _, word in sorted(config.id2label.items())]
        check_label_rows(data, task, data_collator, class_names=classes, evaluates=args.eval_strategy != "no")
        super().__init__(
            model=student,
            args=args,
            data_collator=data_collator,
            train_dataset=data["train_dataset"],
            eval_dataset=data["eval_dataset"],
            processing_class=processing_class,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if self.optimizer is not None:
            adopt_optimizer(self.optimizer, None if isinstance(origin, str) else origin, self.model)
        # the loss and its held-out measurement, on the device and accelerator that Trainer has made
        self.distillation = self.make_distillation(teacher.to(args.device))
        self.distillation.autocast = self.accelerator.autocast
        self.held_out: Any = self.make_evaluation()
        if args.torch_compile:
            self.compiled_with = {"backend": args.torch_compile_backend, "mode": args.torch_compile_mode}
            # else accelerate would compile the model as a whole
            self.accelerator.state.dynamo_plugin.backend = DynamoBackend.NO
        self._look_at_collator()
        self.set_up_student()
        # No rank may write into output_dir before all have seen what was there.
        self.accelerator.wait_for_everyone()

    def _tokenized(
        self, data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel
    ) -> tuple[Mapping[str, Any], Sequence[tuple[Any, raw_rows.Grading]]]:
        """As [`raw_rows.tokenized`], by the reader of the first raw rows that the trainer was given."""
        if self.row_reader is None and (reader := self.reader_of(data, tokenizer, model)) is not None:
            self.row_reader = reader
            self.rows_facts = reader.facts or self.rows_facts
        return raw_rows.tokenized(data, self.row_reader)

    def _refuse_settings_without_part(self, task: Task, *, masks_words: bool) -> None:
        """Refuse settings that change nothing for a model of this task, unless they have their default."""
        if task.name == "mlm":
            remedies = {"task_weight": "masked words are its task, whose factor is mlm_weight"}
        else:
            remedies = {"mlm_weight": "its own loss has the factor task_weight"}
        if not task.is_pretraining:
            remedies["mlm_probability"] = "no words are masked; leave it out"
        elif not masks_words:
            remedies["mlm_probability"] = "the given data_collator masks words; set it there"
        refuse_without_part(self.args, remedies)

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

    # The student

    @property
    def is_finished(self) -> bool:
        """Whether the student has its final widths; a student of fixed widths has them from its start on."""
        return self.has_started or self.kept == self.plan

    def dense_student(self, *, format: str = "standard", allow_partial: bool = False) -> PreTrainedModel:
        """A copy of the student as an export holds it: on the CPU, in evaluation mode, without projections.

        Args:
            format: `"standard"` or `"compact"`; it decides which widths are possible before the plan is reached.
            allow_partial: also copy a student that has not reached its plan, at the nearest possible widths.
        """
        from ..export.export_folder import dense_copy

        self.check_finished(allow_partial=allow_partial)
        return dense_copy(self.model)

    def check_finished(self, *, allow_partial: bool) -> None:
        """Refuse a student that has not reached its plan; see [`check_finished`]."""
        from ..export.export_folder import check_finished

        check_finished(self.is_finished, kept=self.kept, target=self.plan, allow_partial=allow_partial)

    def status(self) -> dict[str, float]:
        """The student's size for the logs: `kept_fraction_{kind}` of channels, attention and FFN neurons."""
        return {f"kept_fraction_{kind}": value for kind, value in kept_fractions(self.kept, self.full).items()}

    @property
    def size_in_words(self) -> str:
        """How many times the teacher has the student's parameters, such as `3.6× smaller`; empty where no more."""
        from ..export.outcome import times

        # projections to the teacher don't count: no export has them
        named = self.model.named_parameters()
        num_kept = sum(tensor.numel() for name, tensor in named if not name.startswith(PROJECTIONS))
        num_all = sum(tensor.numel() for tensor in self.distillation.teacher.exact.parameters())
        return times(num_all, num_kept, "smaller") if num_kept < num_all else ""

    @property
    def kept(self) -> WidthPlan:
        """The widths that the student has now."""
        return widths_of(self.model.config)

    def matched_heads(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Heads of a layer that both models still have: their int64 indices `(in the teacher, in the student)`."""
        return self.kept_heads[layer], torch.arange(len(self.kept_heads[layer]))

    # One optimizer step

    def begin_training(self) -> None:
        """Also take over what a resumed run has measured, and compile all layers, with `torch_compile`."""
        super().begin_training()
        self.own_evaluations = self.evaluations
        if self.resumed_logs is not None and self._saved_evaluations is not None:
            self.own_evaluations = self._saved_evaluations
        self.step_of_weights, self.step_measured = None, next(reversed(self.own_evaluations), None)
        if self.compiled_with is not None:
            from ..models.compiling import compile_layers, compiling_seconds

            for model in (self.distillation.teacher.fast, self.model):
                compile_layers(model, **self.compiled_with)
            self._compiling = (
                min(self.state.global_step + STEPS_OF_COMPILING, self.state.max_steps),
                compiling_seconds(),
            )

    def end_step(self) -> None:
        """Also tell, once, what compiling took."""
        super().end_step()
        if self.compiled_with is not None and self.state.global_step == self._compiling[0]:
            from ..models.compiling import compiling_seconds

            seconds = compiling_seconds() - self._compiling[1]
            logger.info("torch_compile: compiling took %.0f s of the first steps", seconds)

    def prepare_batch(self, batch: Any) -> Any:
        """Check a micro-batch, and find the positions of its predictions once."""
        batch = super().prepare_batch(batch)
        check_labels(batch, self.distillation.task, self.data_collator)
        return self.distillation.task.with_positions(batch)

    def count(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Predictions, tokens and token pairs of a batch; see [`DistillationLoss.count`]."""
        return self.distillation.count(inputs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The distillation loss L of one micro-batch, see [`DistillationLoss.total`]; a share of the step's average.

        `num_items_in_batch` holds predictions, tokens and pairs of the whole step; None: those of this batch.
        """
        counts = self.count(inputs) if num_items_in_batch is None else num_items_in_batch
        terms, outputs = self.terms(model, inputs, counts)
        loss = self.scale_and_log(self.distillation.total(terms), terms, model)
        return (loss, outputs) if return_outputs else loss

    def terms(self, model: nn.Module, inputs: dict[str, Any], counts: torch.Tensor) -> tuple[Terms, Any]:
        """The terms of the loss; arguments and return as [`DistillationLoss.terms`]."""
        return self.distillation.terms(model, inputs, counts)

    def on_resized(self, masks: UnitTensors | None) -> None:
        """Update heads and DDP after parameters were removed.

        Args:
            masks: one bool a former unit, True = kept; None: layers were removed, and of the others nothing.
        """
        if masks is not None:
            # compose the choices: a mask over the present heads picks among their indices in the teacher
            shared = self.full.traits.queries_per_key
            self.kept_heads = [
                heads[masks[head_group(masks, layer)].repeat_interleave(shared)]
                for layer, heads in enumerate(self.kept_heads)
            ]
        wrap_again(self.model_wrapped, self.accelerator, self.smallest_inputs())

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The learning-rate curve tied to pruning, or Trainer's own; arguments and return as Trainer's."""
        if self.lr_scheduler is not None or not self.args.follows_pruning:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = learning_rate_curve(
            self.args, num_training_steps, optimizer or self.optimizer, plan_step=self.plan_step(num_training_steps)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def first_batches(
        self, *, num_tokens: float = math.inf, num_texts: float = math.inf
    ) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        """The first training batches, until all ranks together have seen so many tokens or texts; collective.

        Args:
            num_tokens: stop after at least so many tokens.
            num_texts: stop after at least so many predictions, for a model that makes one a text.

        Yields:
            A micro-batch of this rank, and its counts summed over all ranks, as `count` has them.
        """
        batches, seen_tokens, seen_texts = iter(self.get_train_dataloader()), 0, 0
        with self.bar("measuring the student", unit=" batches") as bar:
            # all ranks stop after the same batch, because they compare counts of all ranks
            while (
                seen_tokens < num_tokens
                and seen_texts < num_texts
                and (fetched := self.of_all_ranks(self.whole_step(batches, 1)))
            ):
                counts = self.accelerator.reduce(self.count(fetched[0]).to(self.args.device))
                seen_texts, seen_tokens = seen_texts + int(counts[0]), seen_tokens + int(counts[1])
                yield self._prepare_inputs(fetched[0]), counts
                bar.update()

    def bar(self, desc: str, **given: Any) -> Any:
        """A bar of progress that leaves no line, where the run shows bars."""
        # where it isn't said, tqdm's own default holds, which the command line sets for logs
        silent = {"disable": True} if self.args.disable_tqdm or not self.is_world_process_zero() else {}
        return tqdm(desc=desc, leave=False, **given, **silent)

    def evaluation_collator(self) -> Any:
        """Like [`ExactTrainer.evaluation_collator`]; the default collator masks BERT's share of the tokens, 15 %."""
        collator = super().evaluation_collator()
        if self.is_masking and isinstance(collator, MaskedLMCollator):  # so that figures compare
            collator.mlm_probability = EVALUATED_PROBABILITY
        return collator

    # Logs and checkpoints

    def write_state(self, folder: Path, logs: Mapping[str, Any]) -> None:
        """Add the projections to a checkpoint; the student's own weights leave them out."""
        save_projections(folder, self.model)
        super().write_state(folder, logs)

    @property
    def frozen_teacher(self) -> nn.Module:
        """The teacher in float32."""
        return self.distillation.teacher.exact

    def state_to_save(self) -> dict[str, Any]:
        """The base's values, and the student's: card, plan, widths at the start, heads."""
        state, num_layers = super().state_to_save(), len(self.full.layers)
        return {
            **state,
            "card": dataclasses.asdict(self.card_of_run),
            "student": self.args.student,
            "plain": self.args.plain,
            "plan": self.plan.to_dict(of_layers=num_layers),
            "full": self.full.to_dict(of_layers=len(self.plan.layers)),
            "is_finished": self.is_finished,
            "kept_heads": [heads.tolist() for heads in self.kept_heads],
            # a callback may have evaluated other rows, which the log doesn't tell apart
            # pairs, as a file of objects would sort them
            _MEASURED: [[step, [*metrics.items()]] for step, metrics in self.own_evaluations.items()],
        }

    def take_state(self, state: Mapping[str, Any], folder: Path) -> None:
        """Bring the student back to a checkpoint, whatever widths it has now."""
        load_student(folder, self.model, optimizer=self.bare_optimizer)
        self.kept_heads = [torch.tensor(heads) for heads in state["kept_heads"]]
        measured = state.get(_MEASURED)  # earlier versions wrote none
        self._saved_evaluations = None if measured is None else {step: dict(metrics) for step, metrics in measured}
        wrap_again(self.model_wrapped, self.accelerator, self.smallest_inputs())

    # Evaluation

    @property
    def evaluations(self) -> dict[int, dict[str, float]]:
        """Held-out metrics of all evaluations of the run, by step, without times and prefix."""
        return evaluations_in(self.state.log_history)

    @property
    def held_out_metrics(self) -> dict[str, float]:
        """Metrics of the last evaluation of `eval_dataset`, all its sets; of the best model's where that is loaded."""
        return {} if self.step_measured is None else self.own_evaluations.get(self.step_measured, {})

    @property
    def num_steps(self) -> int:
        """Steps that the weights have had: fewer than the run's where its best model is loaded."""
        return self.state.global_step if self.step_of_weights is None else self.step_of_weights

    def evaluate_teacher(self) -> Mapping[str, float]:
        """Evaluate the teacher on the held-out rows, in float32, for later exports to report; collective.

        With several evaluation sets each metric has the name of its set in front.
        """
        sets: Any = self.eval_dataset
        metrics: dict[str, float] = {}
        for name in sets if isinstance(sets, dict) else [None]:
            loader, config = self.get_eval_dataloader(name), self.model.config
            batches = (checked_batch(self._prepare_inputs(inputs), config) for inputs in loader)
            of_set = self.held_out.of_teacher(batches)
            metrics |= of_set if name is None else {f"{name}_{key}": value for key, value in of_set.items()}
        self.teacher_evaluation = metrics
        return metrics

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Like Trainer's, but tokenizes raw rows; the evaluation that follows grades these rows."""
        return super().get_eval_dataloader(self._to_measure(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """As [`DistillationTrainer.get_eval_dataloader`], of the rows of `predict`."""
        return super().get_test_dataloader(self._to_measure(test_dataset))

    def _to_measure(self, given: Any) -> Any:
        """Rows that are measured next, tokenized if they are raw; None and names of evaluation sets stay."""
        gradings, asked = self.gradings, given
        if raw_rows.is_raw(given):
            encoded, gradings = self._tokenized({"eval_dataset": given}, self.processing_class, self.model)
            given = encoded["eval_dataset"]
        rows = self.eval_dataset if given is None else given
        rows = self.eval_dataset[rows] if isinstance(rows, str) else rows
        # by identity: figures and gradings belong to the very rows that they were made for
        own: list[Any] = []
        for data in (self.eval_dataset, self.made_with.get("eval_dataset")):
            own += data.values() if isinstance(data, dict) else [data]
        self.measures_own = self.eval_dataset is None or any(one is rows or one is asked for one in own)
        self.held_out.whole_row_scores = next((grade for graded, grade in gradings if graded is rows), None)
        return given

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Trainer's loop, adding `kl`, `mlm_loss`, `mlm_accuracy` (or `task_…`) and kept fractions to the metrics.

        Averages are over predictions, so `loss` is the same whatever the batch size and the number of ranks.
        """
        self.held_out.reset()
        wrapped, was_prepared = self.model_wrapped, _PREPARED in vars(self.model)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if not self.is_in_train and not was_prepared:
            # Else a later train() would take the bare model for one that is wrapped for training already.
            self.model_wrapped = wrapped
            self.model.__dict__.pop(_PREPARED, None)
        measured = self.held_out.results()
        if not measured:
            output.metrics.pop(f"{metric_key_prefix}_loss", None)  # Trainer's mean of no predictions is 0
            if metric_key_prefix.startswith("eval"):
                logger.warning("%s: no label counts, so nothing was measured; check the rows", metric_key_prefix)
        for name, value in (measured | self.status()).items():
            output.metrics[f"{metric_key_prefix}_{name}"] = value
        step, measures_own, self.measures_own = self.state.global_step, self.measures_own, True
        if measures_own and (found := evaluations_in([output.metrics | {"step": step}])):
            # several sets are measured one by one
            self.own_evaluations[step] = both_evaluations(self.own_evaluations.get(step, {}), found[step])
            self.step_measured = step
        return output

    def has_loaded_best(self) -> None:
        """Have exports tell the metrics and the step of the weights that they have."""
        self.step_measured = self.step_of_weights = self.state.best_global_step

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """Measure one batch in float32; logits are computed only on demand, and then at all positions."""
        inputs = checked_batch(self._prepare_inputs(inputs), self.model.config)
        loss = self.held_out.measure(inputs)
        if prediction_loss_only:
            return loss, None, None
        labels = None if loss is None else one_or_all(tuple(inputs[name] for name in self.label_names))
        return loss, self.held_out.logits(inputs, ignore_keys), labels

    # Exports and the Hub

    def export(self, folder: str | Path, format: str = "standard", *, allow_partial: bool = False) -> Path:
        """Write the student to a folder that loads with `from_pretrained`; see [`export_student`].

        Call it on all ranks; the main process writes, also logs and `report.html` of the run.

        Args:
            folder: where to; an earlier export there is replaced.
            format: `"standard"` (the stock class) or `"compact"`.
            allow_partial: also export a student that has not reached its plan, at the nearest possible widths.

        Raises:
            ValueError: the plan has not been reached, or the folder holds something else.
        """
        from ..export.report import closing_line, try_report

        student, output_dir = Path(folder), str(self.args.output_dir)
        self.check_finished(allow_partial=allow_partial)  # on all ranks, or some would wait for ever
        if self.is_world_process_zero():
            self.write_export(student, format, allow_partial)
            # the logs and the report of the run, and its last line for the user of a script
            Path(output_dir).mkdir(parents=True, exist_ok=True)
            self.save_state()
            try_report(output_dir, student)
            line = closing_line(output_dir, student)
            if line and any(isinstance(callback, ProgressCallback) for callback in self.callback_handler.callbacks):
                tqdm.write(line)
        self.accelerator.wait_for_everyone()
        return student

    @torch.random.fork_rng(devices=[])  # copies draw weights first, and a run may go on after an export
    def write_export(self, folder: Path, format: str, allow_partial: bool) -> None:
        """Write the student to a folder, on the main process; arguments as [`DistillationTrainer.export`]."""
        from ..export.export_folder import export_student

        tokenizer = self.processing_class
        export_student(
            self.dense_student(format=format, allow_partial=allow_partial),
            folder,
            format,
            tokenizer=tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None,
            teacher=self.distillation.teacher.exact,
            facts=self.run_facts(format),
            overwrite=True,
            also=self.write_members,
        )

    def members(self) -> list[Any]:
        """The sizes in one set of weights, each a `NestedMember`, the largest first; none of a student of one size."""
        return []

    def write_members(self, folder: Path) -> None:
        """Add the sizes besides the largest to an export; nothing of a student of one size."""

    def run_facts(self, format: str = "standard") -> dict[str, dict[str, Any]]:
        """The run's part of the facts of an export in a format: settings, data, held-out metrics, times, card."""
        from ..export.facts import CARD_SECTION, CHANGED, DATA, LATENCY
        from .run_facts import changed_settings, measured_latency

        # pushes during training time a student once, as long as it has its widths
        key = (format, self.kept)
        if self.latency is None or self.latency[0] != key:
            student = self.dense_student(format=format, allow_partial=True)
            exported = to_stock(student) if format == "standard" else student
            self.latency = key, measured_latency(self.distillation.teacher.exact, exported)
        start = {} if self.started_as is None else {"started_as": self.started_as}
        return {
            "settings": self.args.to_sanitized_dict() | start,
            CHANGED: changed_settings(self.args),
            "training": {
                "method": self.method,
                "num_steps": self.num_steps,
                "num_epochs": self.state.epoch and self.state.epoch * self.num_steps / max(1, self.state.global_step),
                "num_bad_steps": self.step_log.num_bad_steps,
                **self.status(),
            },
            DATA: self.data_facts(),
            "evaluation": self.held_out_metrics,
            "teacher_evaluation": dict(self.teacher_evaluation),
            LATENCY: self.latency[1],
            CARD_SECTION: dataclasses.asdict(self.card_of_run),
            **self.about,
        }

    @property
    def card_of_run(self) -> MethodCard:
        """The card's words on the method, of this run: what the student started as may be another model."""
        if self.started_as is None:
            return self.card
        how = _COPY.sub(f"a copy of {self.started_as}, another model than its teacher", self.card.how)
        return dataclasses.replace(self.card, how=how)

    def data_facts(self) -> dict[str, Any]:
        """Names and numbers of rows, as far as data sets have them; of a task's, kind and columns of text."""
        from .run_facts import facts_of_rows

        task = {name: self.rows_facts[name] for name in _OF_ROWS if name in self.rows_facts}
        if task and (activation := activation_name(self.model.config)) is not None:
            task |= {"activation": activation}
        return facts_of_rows(self.train_dataset, self.eval_dataset) | task

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository of the run, on the main process."""
        from ..export.hub import ensure_repo

        if self.is_world_process_zero():
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

        Raises:
            ValueError: the student has not reached its plan.
            HubError: the Hub refused or can't be reached; the student is in `OUTPUT_DIR/student`.
        """
        self.check_finished(allow_partial=False)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if not self.is_world_process_zero():
            return None
        # an earlier push may still read the folder that is written next
        self._finish_current_push()
        self.write_export(self.student_folder, "standard", False)
        push = self._student_push(
            commit_message or "End of training",
            token=token,
            revision=revision,
            private=private,
            tags=[tags] if isinstance(tags, str) else tags,
        )
        return push() if blocking else HfApi().run_as_future(push)

    def push_written(self) -> None:
        """Push the export that is in `OUTPUT_DIR/student` already; collective, errors as of [`push_to_hub`]."""
        if self.is_world_process_zero():
            self._finish_current_push()
            self._student_push("End of training")()

    @property
    def student_folder(self) -> Path:
        """Where the run's export is."""
        return Path(self.args.output_dir) / STUDENT_FOLDER

    def _student_push(self, commit_message: str, **settings: Any) -> Callable[[], Any]:
        """The push of the export in the run's folder; settings as [`push_export`] has them, None: the run's."""
        from ..export.hub import push_export
        from .publishing import where_to_push

        given = {name: value for name, value in settings.items() if value is not None}
        where = where_to_push(self.args) | given
        return partial(push_export, self.student_folder, self.hub_model_id, commit_message=commit_message, **where)

    def push_checkpoint(self, checkpoint: Path) -> None:
        """Push a complete checkpoint, and the student in it once it is finished, while training goes on."""
        from .publishing import LAST_CHECKPOINT, push_aside, push_checkpoint, where_to_push

        is_last, strategy = self.args.hub_strategy == HubStrategy.CHECKPOINT, self.args.hub_strategy

        def push_it() -> None:
            in_repo = LAST_CHECKPOINT if is_last else checkpoint.name
            try:
                push_checkpoint(checkpoint, self.hub_model_id, path_in_repo=in_repo, **where_to_push(self.args))
            finally:
                self.run_folder.being_pushed = None

        def make_pushes() -> list[Callable[[], Any]]:
            pushes: list[Callable[[], Any]] = []
            if is_last or strategy == HubStrategy.ALL_CHECKPOINTS:
                self.run_folder.being_pushed = checkpoint
                pushes.append(push_it)
            if self.is_finished:
                self.write_export(self.student_folder, "standard", False)
                pushes.append(self._student_push(f"Training in progress, step {self.state.global_step}"))
            return pushes

        if strategy != HubStrategy.END and self.is_world_process_zero():
            self.push_in_progress = push_aside(make_pushes, self.push_in_progress, waits=self.args.hub_always_push)
