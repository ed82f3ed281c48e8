"""What a method of distillation decides: attributes and hooks, with the defaults that most methods keep.

[`DistillationTrainer`] in `distillation_trainer.py` inherits and calls them; the classes in `methods/` override them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import DataCollatorForTokenClassification, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.masking import MaskedLMCollator, ReplacedTokensCollator
from ..distillation.objective import DistillationLoss, check_weights
from ..distillation.tasks import ONE_A_TOKEN, Task
from ..distillation.teacher import FrozenTeacher
from ..export.card import MethodCard
from ..models.widths import WidthPlan
from ..training_args import DistillationArguments
from . import raw_rows
from .evaluation_loop import HeldOutEvaluation
from .learning_rate import default_learning_rate_of
from .pair import ProjectionInit, Start, resolve_student


class DistillationMethod:
    """The decisions of one method, for a trainer; `self.args` is the run's own copy of the settings."""

    method: ClassVar[str]
    """Name by which configs choose it."""
    card: MethodCard
    """The method's part of the model card."""
    learning_rate_share = 1.0
    """Factor of the default learning rate, for methods that need less."""
    needs_head = True
    """Whether encoders without a head are refused."""
    row_reader: raw_rows.RawReader | None = None
    """Reader of raw rows; None until raw rows were given."""
    gradings: Sequence[tuple[Any, raw_rows.Grading]] = ()
    """Held-out sets whose rows are graded as wholes, such as questions, each with its grading."""
    has_all_layers = True
    """Whether the student has as many layers as its teacher."""
    drops_layers: ClassVar[bool] = False
    """Whether the student's layers can become fewer than those that it starts with."""
    arguments_class: ClassVar[type[DistillationArguments]] = DistillationArguments
    """Class of the method's settings."""
    matched_layers: Sequence[int] | None = None
    """The teacher's layer for each of the student's, where the teacher has more."""
    reported_metrics: ClassVar[tuple[str, ...]] = ("kl", "mlm_loss", "mlm_accuracy")
    """Held-out metrics of student and teacher that a run's results report."""

    started_as: str | None = None
    """Folder name of the student that this one started as, in a family; for the card."""
    rows_facts: Mapping[str, Any] = {}
    """What a run understood of the rows of a task, for its results."""
    args: Any
    model: Any
    distillation: DistillationLoss
    accelerator: Any
    matched_heads: Callable[[int], tuple[torch.Tensor, torch.Tensor]]
    export: Callable[..., Path]
    is_world_process_zero: Callable[[], bool]

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

    def tokenized(self, data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> Mapping[str, Any]:
        """Tokenize raw rows; see [`raw_rows.tokenized`]."""
        if self.row_reader is None and (reader := self.reader_of(data, tokenizer, model)) is not None:
            self.row_reader = reader
            self.rows_facts = reader.described or self.rows_facts
        return raw_rows.tokenized(data, self.row_reader)

    def reader_of(self, data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> raw_rows.RawReader | None:
        """The reader of raw rows; arguments and errors as [`raw_rows.reader_of`]."""
        return raw_rows.reader_of(data, tokenizer, model)

    def default_collator(self, task: Task, tokenizer: Any, config: PreTrainedConfig) -> Any:
        """Where the user gives no collator: one that masks words, or pads labels of tokens; else None, Trainer's."""
        if not task.is_pretraining:
            pads_labels = task.num_values == ONE_A_TOKEN and isinstance(tokenizer, PreTrainedTokenizerBase)
            return DataCollatorForTokenClassification(tokenizer) if pads_labels else None
        masks = {"mlm_probability": self.args.mlm_probability, "seed": self.args.seed}
        return masking_collator(ReplacedTokensCollator if task.has_one_logit else MaskedLMCollator, tokenizer, **masks)

    def default_learning_rate(self, task: Task, teacher_config: PreTrainedConfig, train_dataset: Any) -> float:
        """The peak rate where none is given; the log gives the reason."""
        sizes: dict[str, Any] = {"hidden_size": teacher_config.hidden_size, "train_dataset": train_dataset}
        return default_learning_rate_of(self.args, task, share=self.learning_rate_share, **sizes)

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
        return resolve_student(args, config, has_all_layers=cls.has_all_layers)

    @classmethod
    def impossible_reason(cls, plan: WidthPlan, teacher: WidthPlan) -> str | None:
        """The reason why the method can't make a student of such a plan from a teacher, or None; sweeps skip it."""
        if cls.drops_layers or len(plan.layers) == len(teacher.layers):
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
        weights = self.args.loss_weights()
        check_weights(weights, self.model)
        return DistillationLoss(
            self.model, teacher, weights=weights, kept_heads=self.matched_heads, matched_layers=self.matched_layers
        )

    def make_evaluation(self) -> HeldOutEvaluation:
        """The measurement of held-out batches; subclasses with another kind of prediction return their own."""
        return HeldOutEvaluation(self.model, self.distillation.teacher, self.distillation.task, self.accelerator)


def masking_collator(
    kind: type[MaskedLMCollator], tokenizer: Any, *, mlm_probability: float, seed: int
) -> MaskedLMCollator:
    """Make a collator that masks or replaces words of a run; it needs a tokenizer."""
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(
            f"processing_class={tokenizer!r} is no tokenizer, so words can't be masked; pass the teacher's tokenizer, "
            "or a data_collator that gives labels"
        )
    return kind(tokenizer, mlm_probability=mlm_probability, seed=seed)
