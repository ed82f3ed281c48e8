"""The settings of runs, on top of `transformers.TrainingArguments`: one class for all methods, one for each.

[`ExactArguments`] has what every trainer of this package needs, [`DistillationArguments`] what a student beside its
teacher needs. `homodistil_args.py` has HomoDistil's loss and pruning, `methods/` what other methods add. The classes
only hold and check values.
"""

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, TypeVar

import torch
import torch._dynamo  # imported while there is a process group, it would keep the threads of that alive
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils import strtobool

from .files.messages import near_name, short_repr
from .files.settings import check_fields, describe_settings, refuse_without_part, setting
from .files.strict_json import is_int
from .models.widths import WidthPlan
from .plans.budgets import WIDTH_MULTIPLE, share_as_budget

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

_USE_DDP = "use DDP (torchrun or accelerate launch): pruning needs whole parameters on every rank"
UNSUPPORTED = {
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
"""Settings of Trainer that no trainer of the package has → why, or what to do."""
_EPOCHS = "num_train_epochs"
_OF_TRAINER = (
    *("bf16", "fp16", "torch_compile", "seed", "data_seed", "max_steps", _EPOCHS),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "train_sampling_strategy", "optim", "optim_args"),
    *("learning_rate", "warmup_steps", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm"),
)
"""Settings of Trainer that change the steps to come; `torch_compile` rounds otherwise."""
_LOADING = (
    ("use_seedable_sampler", False, "every rank must draw its rows in a seeded order"),
    ("dispatch_batches", True, "every rank must make its own batches"),
    ("even_batches", False, "the last batches of a pass would be those of some ranks only, which then drift apart"),
    ("split_batches", True, "the rows of a step would depend on the number of ranks"),
)
"""Setting of data loading, the value that is refused, and why."""
# Settings of TrainingArguments, which checks few of them: others would stop the run late, or change it silently.
_AT_LEAST_0 = (
    *("adam_epsilon", "weight_decay", "max_grad_norm", "warmup_steps"),
    *("logging_steps", "save_steps", "eval_steps"),
)
_RANGES: dict[str, Mapping[str, Any]] = {
    **{name: {"range": "[0, 1)"} for name in ("adam_beta1", "adam_beta2")},
    **{name: {"range": "[0, inf)"} for name in _AT_LEAST_0},
    "max_steps": {"least": 1, "unset": -1},
    _EPOCHS: {"range": "(0, inf)"},
    "seed": {"least": 0, "most": 2**32 - 1},
    "data_seed": {"least": -(2**63), "most": 2**63 - 1},
}
_SILENT_TRACKERS = ("azure_ml", "flyte")  # transformers' list of those that are installed leaves them out
_GRAPH_MODES = ("reduce-overhead", "max-autotune")
_LAUNCHES_THAT_SPLIT = (
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_MEGATRON_LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG",
)

_Arguments = TypeVar("_Arguments", bound=TrainingArguments)
_Exact = TypeVar("_Exact", bound="ExactArguments")


def with_settings(args: _Arguments, **values: Any) -> _Arguments:
    """Copy settings, some of them changed; nothing is checked again."""
    changed = copy.copy(args)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed


def own_arguments(args: Any, arguments_class: type[_Exact]) -> _Exact:
    """The run's own copy of its settings, as nothing is written into the caller's object.

    Args:
        args: what the trainer was given.
        arguments_class: of the method.

    Raises:
        ValueError: settings of another class, or one that only shows to be impossible here.
    """
    if not isinstance(args, arguments_class):
        raise ValueError(
            f"args is a {type(args).__name__}, which hasn't all settings of this method; make it a "
            f"{arguments_class.__name__}"
        )
    for name in ("fp16_full_eval", "bf16_full_eval"):
        if getattr(args, name):
            raise ValueError(f"{name}=True would round the student's weights for good; evaluation is in float32")
    return with_settings(args, accelerator_config=copy.copy(args.accelerator_config))


@dataclass
class ExactArguments(TrainingArguments):
    """Settings of a run that resumes to the last bit, of whatever method.

    Raises:
        ValueError: a value out of range, a setting that has no part in the run, or one that can't work here; the
            message names argument, value and remedy.
    """

    no_part: ClassVar[dict[str, str]] = {}
    """Settings of a parent class without effect in this one → what to do instead; only their default is accepted."""

    without_later_effect: ClassVar[frozenset[str]] = frozenset(
        {
            *("max_bad_steps", "overwrite_output_dir", "per_device_train_batch_size", "per_device_eval_batch_size"),
            *("gradient_accumulation_steps", "ddp_find_unused_parameters", "logging_nan_inf_filter", "verbose"),
            "dataloader_num_workers",  # it counts for streams, see below
        }
    )
    """Settings with which a run may be resumed differently: they act before the first step, or not on the weights."""

    max_bad_steps: int = setting(20, "Stop after this many steps in a row with non-finite gradients, ≥ 1.", least=1)
    overwrite_output_dir: bool = setting(False, "Train into a folder that is not empty, without resuming.")
    verbose: bool = setting(False, "Show every logged number on the terminal, as Trainer does.")

    # TrainingArguments with other defaults or a checked range
    per_device_train_batch_size: int = setting(
        16, "Rows of a micro-batch on each device, ≥ 1; defaults were measured with 16.", least=1
    )
    per_device_eval_batch_size: int = setting(8, "Rows of an evaluation's batch on each device, ≥ 1.", least=1)
    gradient_accumulation_steps: int = setting(1, "Micro-batches of an optimizer step on each device, ≥ 1.", least=1)
    dataloader_num_workers: int | None = setting(
        None,
        "Processes that make batches ahead, ≥ 0; default: 1 with a GPU, else 0.",
        least=0,
    )
    dataloader_drop_last: bool = setting(True, "Trainer's; if true, a step always has its whole global batch.")
    ddp_find_unused_parameters: bool | None = setting(
        False, "DDP's search for unused parameters; every parameter is used here."
    )
    logging_nan_inf_filter: bool = setting(
        False, "Trainer's filter; it synchronises every micro-step and isn't needed here."
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Have the docstring tell the settings, so that `help` and the reference say what `--help_all` says."""
        super().__init_subclass__(**kwargs)
        describe_settings(cls, without=cls.no_part)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse unknown settings in words, as older versions of transformers had others."""
        for name in kwargs.keys() - cls.__dataclass_fields__.keys():
            nearest = near_name(name, cls.__dataclass_fields__)
            remedy = "leave it out" if nearest is None else f"nearest valid: {nearest}"
            if name in ("max_seq_length", "max_length"):
                remedy = (
                    "rows have the length that you tokenize them to: tokenizer(…, truncation=True, max_length=…), or "
                    "for masked words tokenize_to_blocks(…, max_seq_length=…)"
                )
            elif name in ("text_column", "text_columns", "label_column"):
                remedy = "columns are found by their names, such as text and label: rename those of your rows"
            raise ValueError(f"{name}={short_repr(kwargs[name])} is no setting; {remedy}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        epochs_count = not is_int(self.max_steps) or self.max_steps < 1
        check_fields(self, {name: limits for name, limits in _RANGES.items() if epochs_count or name != _EPOCHS})
        refuse_without_part(self, self.no_part, run=f"a run of {type(self).__name__.removesuffix('Arguments')}")
        unsupported = {name: getattr(self, name, None) for name in UNSUPPORTED}
        launches = {name: os.environ.get(name, "") for name in _LAUNCHES_THAT_SPLIT}
        unsupported |= {name: value for name, value in launches.items() if value.lower() in ("1", "true", "yes")}
        for name, value in unsupported.items():
            if value:
                words = short_repr(value) if isinstance(value, str) and name in UNSUPPORTED else value
                remedy = UNSUPPORTED.get(name, _USE_DDP)
                raise ValueError(f"{name}={words} is not supported by this package's trainers; {remedy}")
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # TrainingArguments refuses bf16 on a CPU that was not asked for
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # torch warns otherwise
        is_launched = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
        asks_for_cpu = self.use_cpu or strtobool(os.environ.get("ACCELERATE_USE_CPU", "False"))
        if is_launched and not asks_for_cpu and not torch.accelerator.is_available():
            raise ValueError(
                f"use_cpu={self.use_cpu}: {os.environ['WORLD_SIZE']} processes were started without a GPU for them, "
                "so each would be a run of its own; set use_cpu=True (--use_cpu true), or start one without torchrun"
            )
        self.ddp_find_unused_parameters = False  # where it is None, Trainer would make it True
        # Trainer would take all metrics but losses for the better the greater they are
        if self.greater_is_better is None and (self.metric_for_best_model or "").split("_")[-1] == "kl":
            self.greater_is_better: bool | None = False
        workers, self.dataloader_num_workers = self.dataloader_num_workers, self.dataloader_num_workers or 0
        super().__post_init__()
        if workers is None:
            self.dataloader_num_workers = int(self.device.type == "cuda")
        trackers = [self.report_to] if isinstance(self.report_to, str) else self.report_to or ()
        for name in {*trackers} - {"all", "none"}:
            from transformers.integrations import get_available_reporting_integrations  # looks for all trackers

            if name not in (*(installed := get_available_reporting_integrations()), *_SILENT_TRACKERS):
                raise ValueError(
                    f"report_to={short_repr(name)} is not installed here; install it, or set report_to to "
                    f"{' or '.join(map(repr, (*installed, 'none')))}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Trainer's values, without settings that have no part in the run."""
        return {name: value for name, value in super().to_dict().items() if name not in self.no_part}

    def own_settings(self) -> dict[str, Any]:
        """The settings that this package's classes declare, of all that have a part in the run: name → JSON value."""
        kinds = [kind for kind in type(self).__mro__ if issubclass(kind, ExactArguments)]
        names = {name for kind in kinds for name in vars(kind).get("__annotations__", ())}
        return {name: value for name, value in sorted(self.to_dict().items()) if name in names}

    def settings_that_matter(self, *, is_stream: bool = False) -> dict[str, Any]:
        """What a run has to be resumed with, to go on as if it had not been interrupted: name → JSON value.

        Args:
            is_stream: whether the rows are a stream; then each worker shuffles the shards of its own.
        """
        values, unread = self.to_dict(), _EPOCHS if self.max_steps > 0 else None
        # own settings and those of Trainer that count, less those that later steps don't read
        names = {*self.own_settings(), *_OF_TRAINER} - self.without_later_effect - {unread}
        names |= {"dataloader_num_workers"} if is_stream else set()
        return {name: values[name] for name in sorted(names & values.keys())}

    def pin_data_order(self) -> None:
        """Make the rows of a step a function of the settings alone, on any number of ranks; changes them in place.

        Raises:
            ValueError: a setting by which rows would depend on a global state or on the number of ranks.
        """
        loading = self.accelerator_config
        if self.train_sampling_strategy not in (orders := ("random", "sequential", "group_by_length")):
            raise ValueError(
                f"train_sampling_strategy={self.train_sampling_strategy!r} draws from the global random state, so a "
                f"resumed run would see other batches; use {', '.join(map(repr, orders))}"
            )
        if not getattr(self, "dataloader_in_order", True):  # which transformers 5.14 doesn't have
            raise ValueError(
                "dataloader_in_order=False hands out batches in the order in which workers finish, so a resumed run "
                "would see others; leave it out"
            )
        for name, refused, reason in _LOADING:
            if bool(getattr(loading, name)) is refused:
                raise ValueError(f"accelerator_config has {name}={refused}; {reason}: leave it out")
        loading.dispatch_batches = False
        # A transfer from pinned memory to a GPU need not hold up the host.
        loading.non_blocking = loading.non_blocking or (self.dataloader_pin_memory and self.device.type == "cuda")
        self.data_seed: int | None = self.seed if self.data_seed is None else self.data_seed

    @property
    def rows_per_step(self) -> int:
        """The global batch: rows an optimizer step, over all micro-batches and ranks."""
        return self.train_batch_size * self.gradient_accumulation_steps * self.world_size

    @property
    def device(self) -> torch.device:
        """Device of this process; plain `cpu` for every rank there, as no state can be loaded to `cpu:1`."""
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device


describe_settings(ExactArguments)


@dataclass
class DistillationArguments(ExactArguments):
    """Settings of a student beside its teacher: widths, masked words, teacher, learning-rate curve.

    A method's own class adds the factors of its loss terms: fields whose names end in `_weight`.

    Raises:
        ValueError: as [`ExactArguments`]; all factors of the loss are 0; two learning-rate curves.
    """

    without_later_effect: ClassVar = ExactArguments.without_later_effect | {"student", "plain"}

    student: str | None = setting(
        None,
        "Widths: preset, share of MACs (1/4), budget (params=14M; macs=0.1,layers=4), plan (216-9x24-528), JSON.",
        also=(float, list),
    )
    plain: bool = setting(
        False, "Keep the hidden size: heads, their channels and FFN neurons go, and embedding models need no Dense."
    )
    width_multiple: int = setting(
        WIDTH_MULTIPLE, "Widths on the way (hidden, FFN) and of budgets are multiples of this, ≥ 1.", least=1
    )
    mlm_probability: float = setting(
        0.3, "Share in (0, 1) of the tokens to predict in training; evaluations mask 0.15.", range="(0, 1)"
    )
    student_dropout: float | None = setting(
        0.0, "Dropout of the student while it is distilled, in [0, 1); unset: the teacher's rates.", range="[0, 1)"
    )
    teacher_dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto", "Type of the teacher's matrix products; auto: float16 with fp16, else bfloat16 if it is fast."
    )
    learning_rate_curve: Literal["auto", "trainer"] = setting(
        "auto", "auto: warm up, hold, fall, unless lr_scheduler_type names a curve; trainer: always lr_scheduler_type."
    )

    # TrainingArguments with other defaults
    learning_rate: float | None = setting(
        None, "Peak learning rate; default: by the tokens of a step, see docs/method.md.", range="[0, inf)"
    )
    adam_beta2: float = setting(0.98, "Adam's β2; Trainer's own default is 0.999.", range="[0, 1)")
    adam_epsilon: float = setting(1e-6, "Adam's ε; the paper's.")
    warmup_steps: float = setting(0.05, "Linear warm-up: steps, or a share of all steps when below 1.")

    def __post_init__(self) -> None:
        if isinstance(self.student, WidthPlan):
            self.student = self.student.to_json()
        if isinstance(self.student, dict | list | tuple):
            self.student = json.dumps(self.student)
        self.student = share_as_budget(self.student)
        super().__post_init__()
        if (optimizer := OptimizerNames(self.optim).value) not in SLICEABLE_OPTIMIZERS:
            raise ValueError(
                f"optim={optimizer!r} keeps state or weights that can't be pruned with the student; use one of "
                f"{', '.join(SLICEABLE_OPTIMIZERS)}"
            )
        compiles = self.torch_compile or self.torch_compile_mode or self.torch_compile_backend
        if compiles:
            from .models.compiling import compiling_problem

            if problem := compiling_problem():
                raise ValueError(f"torch_compile=True is not supported here: {problem}, or leave it off")
        if self.torch_compile_mode in _GRAPH_MODES:
            raise ValueError(
                f"torch_compile_mode={self.torch_compile_mode!r} records CUDA graphs, whose shapes and memory are "
                "fixed, but the student gets narrower as it trains; use 'max-autotune-no-cudagraphs', or leave it out"
            )
        if self.follows_pruning and self.lr_scheduler_kwargs:
            raise ValueError(
                f"lr_scheduler_kwargs={self.lr_scheduler_kwargs!r} would be ignored by the learning rate tied to "
                "pruning; set learning_rate_curve='trainer', or drop them"
            )
        weights = self.loss_weights()
        if weights and not any(weights.values()):
            names = ", ".join(f"{name}_weight" for name in weights)
            raise ValueError(f"{names} are all 0, so nothing would be learnt; leave one of them at its default")

    def loss_weights(self) -> dict[str, float]:
        """Factor ≥ 0 of each term that the loss has, by the term's name."""
        names = [entry.name for entry in fields(self) if entry.name.endswith("_weight")]
        return {name.removesuffix("_weight"): getattr(self, name) for name in names if name not in self.no_part}

    @property
    def follows_pruning(self) -> bool:
        """Whether the learning rate follows the pruning curve instead of `lr_scheduler_type`."""
        return self.learning_rate_curve == "auto" and self.lr_scheduler_type == "linear"


def refuse_reentrant_checkpointing(args: TrainingArguments, reason: str) -> None:
    """Refuse gradient checkpointing that loses the gradients of recorded queries and keys; `reason`: what needs them.

    Raises:
        ValueError: `args` ask for the reentrant kind.
    """
    kwargs: Any = args.gradient_checkpointing_kwargs or {}
    if args.gradient_checkpointing and kwargs.get("use_reentrant"):
        raise ValueError(
            f"gradient_checkpointing_kwargs={kwargs!r} keeps no gradient of queries and keys, which {reason}; set "
            "use_reentrant to false"
        )
