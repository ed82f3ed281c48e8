"""Every setting of a HomoDistil run, on top of `transformers.TrainingArguments`.

The dataclass only holds and checks values. Where data come from is no setting of it.
"""

import json
import math
import os
import sys
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from .files.messages import shown
from .files.strict_json import is_number, is_whole
from .models.compiling import compiling_problem
from .pruning.schedule import DEADLINE_FRACTION

DEFAULT_CPU_BUDGET_MB = 1000
"""Budget on a CPU, where smaller parts cost next to nothing; an accelerator wants large ones."""

_LAUNCHES_THAT_SPLIT = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)

PRUNING_KINDS = ("hidden", "attention", "ffn")

LOSS_TERMS = ("mlm", "task", "kl", "hidden", "embedding", "attention")

SLICEABLE_OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_torch_xla",
    "adamw_torch_npu_fused",
    "adamw_anyprecision",
    "adagrad",
    "rmsprop",
    "sgd",
)
"""Values of `optim` whose state has each parameter's shape, so that compaction can slice it alike."""


@dataclass
class HomoDistilTrainingArguments(TrainingArguments):
    """Settings of a run: the student, the loss, the pruning schedule, and all that `TrainingArguments` has.

    Defaults that differ from `TrainingArguments`: `learning_rate`, `adam_epsilon` (the paper's), `warmup_steps`, a
    learning-rate curve tied to pruning, `ddp_find_unused_parameters=False`, and `logging_nan_inf_filter=False` (it
    would synchronise every micro-step).

    Raises:
        ValueError: a value out of range or a setting that can't work with pruning; the message names argument, value
            and remedy.

    Example:
    ```python
    >>> args = HomoDistilTrainingArguments(output_dir="out", student="macs=0.25", max_steps=100, report_to="none")
    >>> args.pruning_window("ffn")
    (0.0, 0.3)

    ```
    """

    # Parameters that control the student
    student: str | None = field(
        default=None,
        metadata={
            "help": "Widths to reach: preset, budget (params=14M, macs=0.25, latency_ms=5), plan (216-9x24-528), "
            "file or JSON."
        },
    )
    width_allocation: Literal["local", "global"] = field(
        default="local",
        metadata={"help": "local: each layer reaches the plan's widths; global: heads and FFN compete across layers."},
    )
    width_multiple: int = field(
        default=8, metadata={"help": "Hidden, FFN and heads × head size are rounded up to multiples of this, ≥ 1."}
    )

    # Parameters that control the loss
    mlm_weight: float = field(default=0.01, metadata={"help": "Factor ≥ 0 of the masked-LM loss, nats a prediction."})
    task_weight: float = field(
        default=1.0, metadata={"help": "Factor ≥ 0 of a task model's own loss, the one of the labels."}
    )
    kl_weight: float = field(default=1.0, metadata={"help": "Factor ≥ 0 of KL(teacher ‖ student), nats a prediction."})
    hidden_weight: float = field(
        default=30.0, metadata={"help": "Factor ≥ 0 of the hidden-state errors, mean square, summed over layers."}
    )
    embedding_weight: float = field(default=1.0, metadata={"help": "Factor ≥ 0 of the embedding error, mean square."})
    attention_weight: float = field(
        default=0.0, metadata={"help": "Factor ≥ 0 of the attention-score errors, mean square, summed over layers."}
    )
    projection_init: Literal["identity", "random"] = field(
        default="identity",
        metadata={
            "help": "Start of the projections student → teacher: identity (loss starts at 0) or the paper's random."
        },
    )
    mlm_probability: float = field(
        default=0.15, metadata={"help": "Share in (0, 1) of the tokens that are predicted, when the trainer masks."}
    )
    student_dropout: float | None = field(
        default=0.0,
        metadata={"help": "Dropout of the student while it is distilled, in [0, 1); unset: the teacher's rates."},
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata={"help": "Type of the teacher's matrix products; auto: bfloat16 where the hardware multiplies it."},
    )

    # Parameters that control pruning
    pruning_start_fraction: float = field(
        default=0.0, metadata={"help": "Share in [0, 1) of all steps before the first unit is dropped."}
    )
    pruning_end_fraction: float = field(
        default=0.3, metadata={"help": "Share in (start, 1] of all steps at which the plan is reached."}
    )
    hidden_start_fraction: float | None = field(
        default=None, metadata={"help": "Start for hidden channels, in [0, 1); default pruning_start_fraction."}
    )
    hidden_end_fraction: float | None = field(
        default=None, metadata={"help": "End for hidden channels, in (start, 1]; default pruning_end_fraction."}
    )
    attention_start_fraction: float | None = field(
        default=None, metadata={"help": "Start for heads and their channels; default pruning_start_fraction."}
    )
    attention_end_fraction: float | None = field(
        default=None, metadata={"help": "End for heads and their channels; default pruning_end_fraction."}
    )
    ffn_start_fraction: float | None = field(
        default=None, metadata={"help": "Start for FFN neurons, in [0, 1); default pruning_start_fraction."}
    )
    ffn_end_fraction: float | None = field(
        default=None, metadata={"help": "End for FFN neurons, in (start, 1]; default pruning_end_fraction."}
    )
    pruning_interval_steps: int = field(default=10, metadata={"help": "Steps ≥ 1 between two choices of masks."})
    importance_metric: Literal["sensitivity", "platon", "magnitude", "movement"] = field(
        default="sensitivity", metadata={"help": "Score of a unit; movement, for the ablation, ends far behind."}
    )
    rotate_heads: bool = field(
        default=True,
        metadata={"help": "Start with heads in bases of uncorrelated channels: same function, but easier to prune."},
    )
    sensitivity_smoothing: float = field(
        default=0.85, metadata={"help": "β1 in [0, 1) of the scores' moving average; 0 = the last step alone."}
    )
    uncertainty_smoothing: float = field(
        default=0.95, metadata={"help": "β2 in [0, 1) of PLATON's uncertainty; other metrics don't use it."}
    )
    compaction_threshold: float = field(
        default=0.1,
        metadata={"help": "Compact once this share in [0, 1] of the encoder MACs is masked; 1 = at the end only."},
    )

    # Parameters that control memory
    activation_budget_mb: float | None = field(
        default=None,
        metadata={"help": "Split micro-batches to keep activations under this; 0 = never; default 1000 MB on a CPU."},
    )

    # Parameters that control the discrepancy guard
    discrepancy_guard: bool = field(
        default=False, metadata={"help": "Pause pruning while the smoothed KL stands far above its last value."}
    )
    guard_ratio: float = field(
        default=1.5, metadata={"help": "Pause when KL exceeds this ratio > 1 of its value before the last pruning."}
    )
    guard_floor_nats: float = field(
        default=0.5, metadata={"help": "KL below this never pauses pruning, nats ≥ 0 (near 0 every ratio is large)."}
    )
    guard_patience_steps: int = field(default=50, metadata={"help": "Longest pause, steps ≥ 1."})
    guard_smoothing: float = field(default=0.9, metadata={"help": "Moving average of the KL, in [0, 1)."})

    # Parameters that control the run
    learning_rate_curve: Literal["auto", "pruning", "trainer"] = field(
        default="auto",
        metadata={
            "help": "pruning: warm up, hold, fall; trainer: lr_scheduler_type; auto: pruning if that is linear."
        },
    )
    learning_rate_hold_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share in [0, 1] of all steps after which it falls; default: 0.5, or pruning's end if later."
        },
    )
    max_bad_steps: int = field(
        default=20, metadata={"help": "Stop after this many steps in a row with non-finite gradients, ≥ 1."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Train into a folder that is not empty, without resuming."}
    )

    # TrainingArguments with other defaults
    learning_rate: float = field(
        default=6e-4, metadata={"help": "Peak learning rate; the paper's for small students."}
    )
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Adam's ε; the paper's."})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Linear warm-up: steps, or a share of all steps when below 1."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "DDP's search for unused parameters; every parameter is used here."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Trainer's filter; it synchronises every micro-step and isn't needed here."}
    )

    def __post_init__(self) -> None:
        if isinstance(self.student, dict):
            self.student = json.dumps(self.student)
        _check_settings(self)
        _refuse_unsupported(self)
        _refuse_two_curves(self)
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # TrainingArguments refuses bf16 on a CPU that was not asked for
        super().__post_init__()
        _refuse_reentrant_checkpointing(self)

    def pruning_window(self, kind: str) -> tuple[float, float]:
        """Start and end of pruning for one kind of group, as shares of all steps.

        Args:
            kind: `"hidden"`, `"attention"` or `"ffn"`.

        Returns:
            `(start, end)`, 0 ≤ start < end ≤ 1.
        """
        start, end = getattr(self, f"{kind}_start_fraction"), getattr(self, f"{kind}_end_fraction")
        return (
            self.pruning_start_fraction if start is None else start,
            self.pruning_end_fraction if end is None else end,
        )

    @property
    def device(self) -> torch.device:
        """Device of this process; plain `cpu` for every rank there, as no state can be loaded to `cpu:1`."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def follows_pruning(self) -> bool:
        """Whether the learning rate follows the pruning curve instead of `lr_scheduler_type`."""
        if self.learning_rate_curve != "auto":
            return self.learning_rate_curve == "pruning"
        return self.lr_scheduler_type == "linear"

    @property
    def activation_budget(self) -> float | None:
        """Megabytes that the activations of one forward and backward pass may take; None = no limit."""
        if self.activation_budget_mb is not None:
            return self.activation_budget_mb or None
        return DEFAULT_CPU_BUDGET_MB if self.device.type == "cpu" else None


def _check_settings(args: HomoDistilTrainingArguments) -> None:
    _check_loss_weights(args)
    for name in ("sensitivity_smoothing", "uncertainty_smoothing", "guard_smoothing"):
        _check_range(args, name, low=0.0, high=1.0, open_high=True)
    if args.student_dropout is not None:
        _check_range(args, "student_dropout", low=0.0, high=1.0, open_high=True)
    _check_range(args, "mlm_probability", low=0.0, high=1.0, open_low=True, open_high=True)
    _check_range(args, "compaction_threshold", low=0.0, high=1.0)
    if args.learning_rate_hold_fraction is not None:
        _check_range(args, "learning_rate_hold_fraction", low=0.0, high=1.0)
    if args.activation_budget_mb is not None:
        _check_range(args, "activation_budget_mb", low=0)
    _check_range(args, "guard_ratio", low=1.0, open_low=True)
    _check_range(args, "guard_floor_nats", low=0.0)
    for name in ("width_multiple", "pruning_interval_steps", "guard_patience_steps", "max_bad_steps"):
        _check_count(args, name)
    for name in ("width_allocation", "projection_init", "teacher_dtype", "importance_metric", "learning_rate_curve"):
        _check_choice(args, name)
    for kind in PRUNING_KINDS:
        _check_window(args, kind)


def _check_loss_weights(args: HomoDistilTrainingArguments) -> None:
    for name in LOSS_TERMS:
        _check_range(args, f"{name}_weight", low=0.0)
    if not any(getattr(args, f"{name}_weight") for name in LOSS_TERMS):
        raise ValueError("all loss weights are 0, nothing would be learnt; set kl_weight=1.0, for instance")


def _check_window(args: HomoDistilTrainingArguments, kind: str) -> None:
    names = []
    for moment in ("start", "end"):
        name = f"{kind}_{moment}_fraction"
        names.append(f"pruning_{moment}_fraction" if getattr(args, name) is None else name)
        _check_range(args, names[-1], low=0.0, high=1.0)
    start, end = args.pruning_window(kind)
    if start >= end:
        raise ValueError(
            f"{names[0]}={start} is not below {names[1]}={end}; pruning needs a start before its end, e.g. 0.0 and 0.5"
        )
    if start >= DEADLINE_FRACTION:
        raise ValueError(
            f"{names[0]}={start} is not below {DEADLINE_FRACTION}, the share of all steps by which the plan is "
            "reached whatever happens; start earlier, e.g. at 0.0"
        )


def _check_range(
    args: HomoDistilTrainingArguments,
    name: str,
    *,
    low: float,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    value: Any = getattr(args, name)
    # abs, as isfinite can't take whole numbers beyond every float; nan is not below either.
    is_finite = is_number(value) and abs(value) <= sys.float_info.max
    above = is_finite and (value > low if open_low else value >= low)
    below = is_finite and (value < high if open_high else value <= high)
    if above and below:
        return
    left, right = "(" if open_low else "[", ")" if open_high or math.isinf(high) else "]"
    raise ValueError(
        f"{name}={shown(value)} is outside {left}{low:g}, {high:g}{right}; the default is {_default(name)}"
    )


def _check_count(args: HomoDistilTrainingArguments, name: str, *, low: int = 1) -> None:
    value: Any = getattr(args, name)
    if not is_whole(value) or value < low:
        raise ValueError(
            f"{name}={shown(value)} is not a whole number of at least {low}; the default is {_default(name)}"
        )


def _check_choice(args: HomoDistilTrainingArguments, name: str) -> None:
    choices = HomoDistilTrainingArguments.__annotations__[name].__args__
    if getattr(args, name) not in choices:
        raise ValueError(f"{name}={shown(getattr(args, name))} is not one of {', '.join(choices)}")


def _default(name: str) -> Any:
    return HomoDistilTrainingArguments.__dataclass_fields__[name].default


def _refuse_unsupported(args: HomoDistilTrainingArguments) -> None:
    remedies = {
        "auto_find_batch_size": "set per_device_train_batch_size and gradient_accumulation_steps yourself",
        "label_smoothing_factor": "the teacher's distribution already smooths the labels",
        "fsdp": "use DDP (torchrun or accelerate launch): pruning needs whole parameters on every rank",
        "deepspeed": "use DDP (torchrun or accelerate launch): pruning needs whole parameters on every rank",
        "parallelism_config": "use DDP (torchrun or accelerate launch), which needs none: pruning needs whole "
        "parameters and whole sequences on every rank",
        "use_liger_kernel": "its fused losses would replace the distillation loss",
        "neftune_noise_alpha": "noise on the student's embeddings only would enter the distillation loss",
        "enable_jit_checkpoint": "it may save in the middle of a step; SIGTERM saves at the end of one anyway",
        "ignore_data_skip": "a resumed run would see other data than the uninterrupted one",
    }
    for name, remedy in remedies.items():
        value = getattr(args, name, None)
        if value:
            given = shown(value) if isinstance(value, str) else repr(value)
            raise ValueError(f"{name}={given} is not supported by HomoDistilTrainer; {remedy}")
    if args.torch_compile and (problem := compiling_problem()):
        raise ValueError(f"torch_compile=True is not supported here: {problem}, or leave it off")
    for name in _LAUNCHES_THAT_SPLIT:
        if os.environ.get(name, "").lower() in ("1", "true", "yes"):
            raise ValueError(f"{name}={os.environ[name]} is not supported by HomoDistilTrainer; {remedies['fsdp']}")
    optimizer = OptimizerNames(args.optim).value
    if optimizer not in SLICEABLE_OPTIMIZERS:
        raise ValueError(
            f"optim={optimizer!r} keeps state or weights that can't be pruned with the student; use one of "
            f"{', '.join(SLICEABLE_OPTIMIZERS)}"
        )


def _refuse_two_curves(args: HomoDistilTrainingArguments) -> None:
    if args.follows_pruning and args.lr_scheduler_kwargs:
        raise ValueError(
            f"lr_scheduler_kwargs={args.lr_scheduler_kwargs!r} would be ignored by the learning rate tied to pruning; "
            "set learning_rate_curve='trainer', or drop them"
        )
    if not args.follows_pruning and args.learning_rate_hold_fraction is not None:
        raise ValueError(
            f"learning_rate_hold_fraction={args.learning_rate_hold_fraction} would be ignored by lr_scheduler_type="
            f"{args.lr_scheduler_type}; set learning_rate_curve='pruning', or leave it out"
        )


def _refuse_reentrant_checkpointing(args: HomoDistilTrainingArguments) -> None:
    kwargs: Any = args.gradient_checkpointing_kwargs or {}
    if args.gradient_checkpointing and kwargs.get("use_reentrant") and args.attention_weight:
        raise ValueError(
            f"gradient_checkpointing_kwargs={kwargs!r} keeps no gradient of queries and keys, which attention_weight="
            f"{args.attention_weight} needs; set use_reentrant to false"
        )
