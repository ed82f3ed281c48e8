"""Every setting of a HomoDistil run, on top of `transformers.TrainingArguments`.

The dataclass only holds and checks values. Where data come from is no setting of it.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

import torch
import torch._dynamo  # imported while there is a process group, it would keep the threads of that alive
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from .files.messages import short_repr
from .files.strict_json import is_int, is_number
from .models.compiling import compiling_problem
from .pruning.schedule import DEADLINE_FRACTION

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

_RANGES = {f"{name}_weight": "[0, inf)" for name in LOSS_TERMS} | {
    "mlm_probability": "(0, 1)",
    "student_dropout": "[0, 1)",
    "sensitivity_smoothing": "[0, 1)",
    "uncertainty_smoothing": "[0, 1)",
    "learning_rate_hold_fraction": "[0, 1]",
    "learning_rate": "[0, inf)",
    "adam_beta2": "[0, 1)",
}
_RANGES |= {f"{kind}_{end}_fraction": "[0, 1]" for kind in ("pruning", *PRUNING_KINDS) for end in ("start", "end")}
_LEAST = dict.fromkeys(
    (
        *("width_multiple", "pruning_interval_steps", "max_bad_steps", "gradient_accumulation_steps"),
        *("per_device_train_batch_size", "per_device_eval_batch_size"),
    ),
    1,
) | {"num_scoring_batches": 0}

_USE_DDP = "use DDP (torchrun or accelerate launch): pruning needs whole parameters on every rank"
_REMEDIES = {
    "auto_find_batch_size": "set per_device_train_batch_size and gradient_accumulation_steps yourself",
    "label_smoothing_factor": "the teacher's distribution already smooths the labels",
    "fsdp": _USE_DDP,
    "deepspeed": _USE_DDP,
    "parallelism_config": "use DDP (torchrun or accelerate launch), which needs none: pruning needs whole "
    "parameters and whole sequences on every rank",
    "use_liger_kernel": "its fused losses would replace the distillation loss",
    "neftune_noise_alpha": "noise on the student's embeddings only would enter the distillation loss",
    "enable_jit_checkpoint": "it may save in the middle of a step; SIGTERM saves at the end of one anyway",
    "ignore_data_skip": "a resumed run would see other data than the uninterrupted one",
    "save_on_each_node": "name a folder that all nodes share: each checkpoint is written once, and read by every rank",
    "ddp_find_unused_parameters": "leave it out: decoder and projections are used outside the wrapped forward pass, "
    "where DDP would take them for unused and mark them ready twice",
    "ddp_static_graph": "leave it out: the student's graph changes as it is pruned",
}
_GRAPH_MODES = ("reduce-overhead", "max-autotune")
_LAUNCHES_THAT_SPLIT = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)


@dataclass
class HomoDistilTrainingArguments(TrainingArguments):
    """Settings of a run: the student, the loss, the pruning schedule, and all that `TrainingArguments` has.

    Defaults that differ from `TrainingArguments`: `learning_rate` (by the tokens of a step, once a trainer is made),
    `adam_beta2`, `adam_epsilon` (the paper's), `per_device_train_batch_size`, `warmup_steps`, a learning-rate
    curve tied to pruning, `dataloader_drop_last=True` (a step always has its whole global batch),
    `ddp_find_unused_parameters=False`, and `logging_nan_inf_filter=False` (it would synchronise every micro-step).

    Raises:
        ValueError: a value out of range or a setting that can't work with pruning; the message names argument, value
            and remedy.

    Example:
    ```python
    >>> args = HomoDistilTrainingArguments(output_dir="out", student="macs=0.25", max_steps=100, report_to="none")
    >>> args.pruning_window("ffn")
    (0.0, 0.0)

    ```
    """

    # Parameters that control the student
    student: str | None = field(
        default=None,
        metadata={
            "help": "Widths: preset, budget (params=14M, macs=0.25, compact_macs=0.25, latency_ms=5), plan "
            "(216-9x24-528), JSON."
        },
    )
    width_multiple: int = field(
        default=8, metadata={"help": "Widths on the way (hidden, FFN) and of budgets are multiples of this, ≥ 1."}
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
        default=0.3, metadata={"help": "Share in (0, 1) of the tokens to predict in training; evaluations mask 0.15."}
    )
    student_dropout: float | None = field(
        default=0.0,
        metadata={"help": "Dropout of the student while it is distilled, in [0, 1); unset: the teacher's rates."},
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata={
            "help": "Type of the teacher's matrix products; auto: float16 with fp16, else bfloat16 if it is fast."
        },
    )

    # Parameters that control pruning
    pruning_start_fraction: float = field(
        default=0.0, metadata={"help": "Share in [0, 1) of all steps before the first unit is dropped."}
    )
    pruning_end_fraction: float = field(
        default=0.0, metadata={"help": "Share in [start, 1] of all steps at which the plan is reached; 0: before any."}
    )
    hidden_start_fraction: float | None = field(
        default=None, metadata={"help": "Start for hidden channels, in [0, 1); default pruning_start_fraction."}
    )
    hidden_end_fraction: float | None = field(
        default=None, metadata={"help": "End for hidden channels, in [start, 1]; default pruning_end_fraction."}
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
        default=None, metadata={"help": "End for FFN neurons, in [start, 1]; default pruning_end_fraction."}
    )
    pruning_interval_steps: int = field(default=10, metadata={"help": "Steps ≥ 1 between two choices of masks."})
    importance_metric: Literal["sensitivity", "platon", "magnitude", "movement"] = field(
        default="sensitivity", metadata={"help": "Score of a unit; movement, for the ablation, ends far behind."}
    )
    num_scoring_batches: int = field(
        default=16,
        metadata={"help": "Batches, before the first step, that units are scored on; 0: at every step, as the paper."},
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
    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate; default: by the tokens of a step, see docs/method.md."}
    )
    adam_beta2: float = field(default=0.98, metadata={"help": "Adam's β2; short runs end far behind with 0.999."})
    per_device_train_batch_size: int = field(
        default=16, metadata={"help": "Rows of a micro-batch on each device, ≥ 1; defaults were measured with 16."}
    )
    adam_epsilon: float = field(default=1e-6, metadata={"help": "Adam's ε; the paper's."})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Linear warm-up: steps, or a share of all steps when below 1."}
    )
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "Trainer's; a step always has its whole global batch."}
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
        _refuse_compiling(self)
        _refuse_two_curves(self)
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # TrainingArguments refuses bf16 on a CPU that was not asked for
        self.ddp_find_unused_parameters = False  # where it is None, Trainer would make it True
        super().__post_init__()
        _refuse_reentrant_checkpointing(self)

    def pruning_window(self, kind: str) -> tuple[float, float]:
        """Start and end of pruning for one kind of group, as shares of all steps.

        Args:
            kind: `"hidden"`, `"attention"` or `"ffn"`.

        Returns:
            `(start, end)`, 0 ≤ start ≤ end ≤ 1.
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


def _check_settings(args: HomoDistilTrainingArguments) -> None:
    for name, kind in HomoDistilTrainingArguments.__annotations__.items():
        if get_origin(kind) is Literal:
            _check_choice(args, name, get_args(kind))
        elif name in _RANGES and (getattr(args, name) is not None or type(None) not in get_args(kind)):
            _check_range(args, name)
    for name in _LEAST:
        _check_count(args, name)
    if not any(getattr(args, f"{name}_weight") for name in LOSS_TERMS):
        raise ValueError("all loss weights are 0, nothing would be learnt; set kl_weight=1.0, for instance")
    for kind in PRUNING_KINDS:
        _check_window(args, kind)
    is_cut_first = not all(args.pruning_window(kind)[1] for kind in PRUNING_KINDS)
    if is_cut_first and not args.num_scoring_batches and args.importance_metric != "magnitude":
        raise ValueError(
            "num_scoring_batches=0 leaves units unscored that go before the first step, as pruning_end_fraction (or "
            "that of a kind) is 0; set it to 0.3, for instance, or score a few batches first, e.g. 16"
        )


def _check_choice(args: HomoDistilTrainingArguments, name: str, choices: Sequence[str]) -> None:
    if getattr(args, name) not in choices:
        raise ValueError(f"{name}={short_repr(getattr(args, name))} is not one of {', '.join(choices)}")


def _check_count(args: HomoDistilTrainingArguments, name: str) -> None:
    value: Any = getattr(args, name)
    if not is_int(value) or value < _LEAST[name]:
        raise ValueError(
            f"{name}={short_repr(value)} is not a whole number of at least {_LEAST[name]}; {_remedy(name)}"
        )


def _check_range(args: HomoDistilTrainingArguments, name: str) -> None:
    value, interval = getattr(args, name), _RANGES[name]
    low, high = map(float, interval[1:-1].split(","))
    # abs, as isfinite can't take whole numbers beyond every float; nan is not below either.
    is_inside = is_number(value) and abs(value) <= sys.float_info.max and low <= value <= high
    if not is_inside or (value == low and interval[0] == "(") or (value == high and interval[-1] == ")"):
        raise ValueError(f"{name}={short_repr(value)} is outside {interval}; {_remedy(name)}")


def _remedy(name: str) -> str:
    default = HomoDistilTrainingArguments.__dataclass_fields__[name].default
    return "left out, it follows from the others" if default is None else f"the default is {default}"


def _check_window(args: HomoDistilTrainingArguments, kind: str) -> None:
    names = [f"{kind}_start_fraction", f"{kind}_end_fraction"]
    names = [name.replace(kind, "pruning") if getattr(args, name) is None else name for name in names]
    start, end = args.pruning_window(kind)
    if start > end:
        raise ValueError(
            f"{names[0]}={start} is above {names[1]}={end}; pruning ends after its start, e.g. 0.0 and 0.5"
        )
    if start >= DEADLINE_FRACTION:
        raise ValueError(
            f"{names[0]}={start} is not below {DEADLINE_FRACTION}, the share of all steps by which the plan is "
            "reached whatever happens; start earlier, e.g. at 0.0"
        )


def _refuse_unsupported(args: HomoDistilTrainingArguments) -> None:
    given = {name: getattr(args, name, None) for name in _REMEDIES}
    launches = {name: os.environ.get(name, "") for name in _LAUNCHES_THAT_SPLIT}
    given |= {name: value for name, value in launches.items() if value.lower() in ("1", "true", "yes")}
    for name, value in given.items():
        if value:
            words = short_repr(value) if isinstance(value, str) and name in _REMEDIES else value
            remedy = _REMEDIES.get(name, _USE_DDP)
            raise ValueError(f"{name}={words} is not supported by HomoDistilTrainer; {remedy}")
    optimizer = OptimizerNames(args.optim).value
    if optimizer not in SLICEABLE_OPTIMIZERS:
        raise ValueError(
            f"optim={optimizer!r} keeps state or weights that can't be pruned with the student; use one of "
            f"{', '.join(SLICEABLE_OPTIMIZERS)}"
        )


def _refuse_compiling(args: HomoDistilTrainingArguments) -> None:
    compiles = args.torch_compile or args.torch_compile_mode or args.torch_compile_backend
    if compiles and (problem := compiling_problem()):
        raise ValueError(f"torch_compile=True is not supported here: {problem}, or leave it off")
    if args.torch_compile_mode in _GRAPH_MODES:
        raise ValueError(
            f"torch_compile_mode={args.torch_compile_mode!r} records CUDA graphs, whose shapes and memory are fixed, "
            "but the student gets narrower as it trains; use 'max-autotune-no-cudagraphs', or leave it out"
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
