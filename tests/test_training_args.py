import dataclasses
import json
import math
import re
from typing import Any

import accelerate
import pytest
import torch
import torch._inductor
from rows import each
from transformers import BertConfig, HfArgumentParser, TrainingArguments

from homodistil_hf import (
    PRESETS,
    BinarizationArguments,
    HomoDistilTrainingArguments,
    LayerWidths,
    SelfDistillationArguments,
    WidthPlan,
    resolve_plan,
)
from homodistil_hf.models.compiling import compiling_problem
from homodistil_hf.runs.config import run_of
from homodistil_hf.runs.kinds import METHODS, trainer_named
from homodistil_hf.training.exact_trainer import warn_of_other_settings
from homodistil_hf.training_args import (
    _GRAPH_MODES,
    SLICEABLE_OPTIMIZERS,
    UNSUPPORTED,
    DistillationArguments,
    ExactArguments,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning")

OWN_FIELDS = {
    name
    for kind in (ExactArguments, DistillationArguments, HomoDistilTrainingArguments)
    for name in kind.__annotations__
    if name not in ("no_part", "recipes", "may_prune_at_once", "without_later_effect")
}


def make_args(**settings: object) -> HomoDistilTrainingArguments:
    return HomoDistilTrainingArguments(**{"output_dir": "out", "report_to": "none", "use_cpu": True} | settings)


@each(
    ("metric", "given", "greater"),
    [
        ("kl", None, False),
        ("eval_kl", None, False),
        ("eval_dev_kl", None, False),  # of one of several evaluation sets
        ("mlm_loss", None, False),
        ("mlm_accuracy", None, True),
        ("kl", True, True),
        (None, None, None),
    ],
)
def test_less_discrepancy_is_better(metric, given, greater):
    args = make_args(metric_for_best_model=metric, greater_is_better=given)
    assert args.greater_is_better is greater


# What is refused

WEIGHTS = {f"{name}_weight" for name in ("mlm", "task", "kl", "hidden", "embedding", "attention")}
LIMITS = {
    "[0, inf)": WEIGHTS | {"learning_rate"},
    "(0, 1)": {"mlm_probability"},
    "[0, 1)": {"student_dropout", "adam_beta2", "sensitivity_smoothing"},
    "[0, 1]": {"pruning_start_fraction", "pruning_end_fraction"},
    1: {"width_multiple", "pruning_interval_steps", "max_bad_steps", "gradient_accumulation_steps"}
    | {"per_device_train_batch_size", "per_device_eval_batch_size"},
    0: {"num_scoring_batches", "dataloader_num_workers"},
}
"""Interval, or least whole number, of all settings that have one."""


def test_numbers_have_limits():
    found: dict[Any, set[str]] = {}
    for name in OWN_FIELDS:
        limits = HomoDistilTrainingArguments.__dataclass_fields__[name].metadata.get("limits", {})
        if "range" in limits or "least" in limits:
            found.setdefault(limits.get("range", limits.get("least")), set()).add(name)
    assert found == LIMITS


@each(
    ("name", "values", "message"),
    [
        (
            "mlm_weight",
            (-1e-9, math.inf, math.nan, 10**400, "0.5", True, [0.5]),
            r"outside \[0, inf\); the default is 0.01",
        ),
        ("mlm_probability", (0, 0.0, 1, 1.5, -0.1), r"outside \(0, 1\); the default is 0.3"),
        ("student_dropout", (1.0, -0.1, 2), r"outside \[0, 1\); the default is 0.0"),
        ("pruning_end_fraction", (1.1, -0.1, "0.5"), r"outside \[0, 1\]; the default is 0.3"),
        ("learning_rate", (-1e-3, math.inf), r"outside \[0, inf\); left out, it follows from the others"),
        ("width_multiple", (0, -1, 2.0, 1.5, True, "3", None), "not a whole number of at least 1; the default is 8"),
        ("max_bad_steps", (0, 1.5), "not a whole number of at least 1; the default is 20"),
        ("projection_init", ("", "nonsense", None, 1), "not one of identity, random"),
        ("teacher_dtype", ("half",), "not one of auto, float32, bfloat16, float16"),
        ("importance_metric", ("l1",), "not one of sensitivity, magnitude"),
        ("learning_rate_curve", ("linear",), "not one of auto, trainer"),
    ],
)
def test_values_out_of_limits_are_refused(name, values, message):
    for value in values:
        with pytest.raises(ValueError, match=rf"^{name}=.* is {message}$"):
            make_args(**{name: value})


VALUES = {
    **{"label_smoothing_factor": 0.1, "fsdp": "full_shard", "neftune_noise_alpha": 5},
    "deepspeed": {"zero_optimization": {"stage": 2}},
}
"""Of settings that aren't refused when they are True."""


@each("name", [name for name in UNSUPPORTED if name != "parallelism_config"])
def test_settings_of_trainer_that_can_not_work_are_refused(name):
    value, remedy = VALUES.get(name, True), re.escape(UNSUPPORTED[name])
    words = re.escape(repr(value))
    with pytest.raises(ValueError, match=f"^{name}={words} is not supported by this package's trainers; {remedy}"):
        make_args(**{name: value})


@each(
    ("settings", "message"),
    [
        (
            {"pruning_start_fraction": 0.5},
            "^pruning_start_fraction=0.5 is above pruning_end_fraction=0.3; pruning ends after its start, e.g. 0.0",
        ),
        (
            {"pruning_end_fraction": 0.0},
            "^pruning_end_fraction=0.0 would prune before the first step, .*, or prune at once with method=",
        ),
        (
            {"num_scoring_batches": -1},
            "^num_scoring_batches=-1 is not a whole number of at least 0; the default is 16",
        ),
        (
            {"pruning_start_fraction": 0.95, "pruning_end_fraction": 1.0},
            "^pruning_start_fraction=0.95 is not below 0.95, the share of all steps by which the plan is reached",
        ),
        (
            {f"{name}_weight": 0.0 for name in ("mlm", "task", "kl", "hidden", "embedding", "attention")},
            "^mlm_weight, .* are all 0, so nothing would be learnt; leave",
        ),
        *(
            (
                {"torch_compile_mode": mode},
                f"^torch_compile_mode='{mode}' records CUDA graphs, .*; use 'max-autotune-no-cudagraphs', or leave",
            )
            for mode in ("reduce-overhead", "max-autotune")
        ),
        ({"optim": "adafactor"}, "^optim='adafactor' keeps state .*; use one of adamw_torch, adamw_torch_fused"),
        ({"optim": "adamw_bnb_8bit"}, "^optim='adamw_bnb_8bit' keeps state .*; use one of adamw_torch"),
        ({"optim": "schedule_free_adamw"}, "^optim='schedule_free_adamw' keeps state .*; use one of adamw_torch"),
        (
            {"lr_scheduler_kwargs": {"power": 2}},
            "^lr_scheduler_kwargs={'power': 2} would be ignored by the learning rate tied to pruning; set learning",
        ),
        (
            {
                "gradient_checkpointing": True,
                "gradient_checkpointing_kwargs": {"use_reentrant": True},
                "attention_weight": 0.5,
            },
            "^gradient_checkpointing_kwargs={'use_reentrant': True} keeps no gradient of queries and keys, which "
            "attention_weight=0.5 needs; set use_reentrant to false",
        ),
        (
            {"importance_metric": "magnitude", "sensitivity_smoothing": 0.5},
            "^sensitivity_smoothing=0.5 has no part in this run: magnitude is not smoothed; leave it out",
        ),
        (
            {"importance_metric": "magnitude", "num_scoring_batches": 3},
            "^num_scoring_batches=3 has no part in this run: magnitudes need no batch; leave it out",
        ),
    ],
)
def test_settings_that_can_not_work_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_args(**settings)


@pytest.mark.skipif(
    not hasattr(accelerate, "ParallelismConfig"), reason="this accelerate has no ParallelismConfig to refuse"
)
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"tp_size": 2},
            r"(?s)^parallelism_config=.*tp_size=2.* is not supported .*; use DDP \(torchrun .*, which needs",
        ),
        ({"cp_size": 2}, "(?s)^parallelism_config=.*cp_size=2.* not supported .*whole parameters and whole sequences"),
    ],
)
def test_parallelism_within_a_model_is_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_args(parallelism_config=accelerate.ParallelismConfig(**sizes))


@each(
    "name",
    [
        "ACCELERATE_USE_FSDP",
        "ACCELERATE_USE_DEEPSPEED",
        "ACCELERATE_USE_MEGATRON_LM",
        "ACCELERATE_USE_PARALLELISM_CONFIG",
    ],
)
@each("value", ["true", "1"])
def test_launches_that_split_parameters_are_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name}={value} is not supported by this package's trainers; use DDP"):
        make_args()
    monkeypatch.setenv(name, "false")
    make_args()


def test_compiling_is_refused_where_torch_is_too_old(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.6.0+cpu")
    for settings in (
        {"torch_compile": True},
        {"torch_compile_mode": "default"},
        {"torch_compile_backend": "inductor"},
    ):
        with pytest.raises(ValueError, match=r"^torch_compile=True is not supported here: torch 2.6.0\+.* leave it o"):
            make_args(**settings)
    monkeypatch.setattr(torch, "__version__", "2.7.0")
    make_args(torch_compile=True)


def test_modes_of_compiling_that_record_graphs_are_refused():
    graphs = {mode for mode, options in torch._inductor.list_mode_options().items() if "triton.cudagraphs" in options}
    assert graphs == set(_GRAPH_MODES)
    assert make_args(torch_compile_mode="max-autotune-no-cudagraphs").torch_compile


# Settings of Trainer, which doesn't check them itself


@each(
    ("name", "value", "expected"),
    [
        ("adam_beta1", 2.0, r"is outside \[0, 1\)"),
        ("adam_epsilon", -1.0, r"is outside \[0, inf\)"),
        ("weight_decay", math.nan, r"is outside \[0, inf\)"),
        ("max_grad_norm", -1.0, r"is outside \[0, inf\)"),
        ("logging_steps", -3, r"is outside \[0, inf\)"),
        ("save_steps", -3, r"is outside \[0, inf\)"),
        ("max_steps", 0, "is not a whole number of at least 1, or -1, which leaves it out"),
        ("max_steps", -3, "is not a whole number of at least 1, or -1, which leaves it out"),
        ("num_train_epochs", 0, r"is outside \(0, inf\)"),
        ("num_train_epochs", math.inf, r"is outside \(0, inf\)"),
        ("seed", 2**64, "is not a whole number from 0 to 4294967295"),
        ("data_seed", 2**64, "is not a whole number from"),
        ("dataloader_num_workers", -1, "is not a whole number of at least 0"),
    ],
)
@each("kind", [HomoDistilTrainingArguments, SelfDistillationArguments, BinarizationArguments])
def test_values_that_would_fail_late_are_refused(name, value, expected, kind):
    with pytest.raises(ValueError, match=f"^{name}={value} {expected}"):
        kind(output_dir="out", report_to="none", use_cpu=True, **{name: value})


def test_a_tracker_that_is_not_there_is_refused(monkeypatch):
    found = "transformers.integrations.get_available_reporting_integrations"
    monkeypatch.setattr(found, lambda: ["tensorboard"])
    with pytest.raises(ValueError, match="^report_to='wandb' is not installed here; install it, or set report_to"):
        make_args(report_to="wandb")
    with pytest.raises(
        ValueError, match="^report_to='tensorbord' is not installed here; .* to 'tensorboard' or 'none'"
    ):
        make_args(report_to=["tensorboard", "tensorbord"])
    assert make_args(report_to="tensorboard").report_to == ["tensorboard"]


@pytest.mark.parametrize(
    ("old", "new"), [("group_by_length", "train_sampling_strategy"), ("no_cuda", "use_cpu"), ("studnt", "student")]
)
def test_the_nearest_setting_of_an_old_one_is_what_it_is_called_now(old, new):
    with pytest.raises(ValueError, match=f"^{old}=True is no setting; nearest valid: {new}$"):
        make_args(**{old: True})
    with pytest.raises(ValueError, match=f"unknown key '{old}' .*nearest valid: '{new}'"):
        run_of({"teacher": "t", "train_data": "x", "output_dir": "o", old: True}, "config")


# What is accepted


@each(
    "settings",
    [
        {"task_weight": 0, "kl_weight": 0, "hidden_weight": 1e-9, "embedding_weight": 0},
        {"ddp_find_unused_parameters": False},
        {"lr_scheduler_type": "polynomial", "learning_rate": None},
        {"max_steps": 5, "num_train_epochs": 0},  # epochs are free where steps count
        {"max_steps": -1, "num_train_epochs": 3},
        {"student_dropout": None},
        {"student_dropout": 0.1},
        {"sensitivity_smoothing": 0.0},
        {"pruning_start_fraction": 0.94, "pruning_end_fraction": 1.0},
        {"width_multiple": 1, "pruning_interval_steps": 1, "max_bad_steps": 1, "pruning_end_fraction": 0.3},
        {"push_to_hub": True, "hub_strategy": "every_save"},
        {"push_to_hub": True, "hub_strategy": "checkpoint"},
        {"push_to_hub": True, "hub_strategy": "all_checkpoints"},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        {"gradient_checkpointing": True, "attention_weight": 1.0},
        {"gradient_checkpointing_kwargs": {"use_reentrant": True}, "attention_weight": 1.0},
        *({"optim": name} for name in ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop", "adagrad")),
    ],
)
def test_the_ends_of_ranges_are_accepted(settings):
    args = make_args(**settings)
    assert {name: getattr(args, name) for name in settings} == settings


@each("name", ["adamw_torch", "adamw_torch_fused", "adagrad", "rmsprop", "sgd"])
def test_accepted_optimizers_keep_state_of_their_parameters_shape(name):
    assert name in SLICEABLE_OPTIMIZERS
    classes = {"adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop, "sgd": torch.optim.SGD}
    settings = {"sgd": {"momentum": 0.9}, "adamw_torch_fused": {"fused": True}}.get(name, {})
    parameter = torch.nn.Parameter(torch.ones(3, 4))
    optimizer = classes.get(name, torch.optim.AdamW)([parameter], lr=0.1, **settings)
    parameter.grad = torch.ones(3, 4)
    optimizer.step()
    shapes = {value.shape for value in optimizer.state[parameter].values() if torch.is_tensor(value)}
    assert (3, 4) in shapes
    assert shapes <= {(3, 4), ()}


# Values and defaults


@each(
    ("settings", "expected"),
    [
        ({}, True),
        ({"lr_scheduler_type": "cosine"}, False),
        ({"learning_rate_curve": "trainer"}, False),
    ],
)
def test_the_learning_rate_follows_pruning_unless_told_otherwise(settings, expected):
    assert make_args(**settings).follows_pruning is expected


def test_a_student_may_be_a_dict_a_plan_or_a_preset():
    plan = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
    assert json.loads(make_args(student=plan).student) == plan
    assert make_args(student="macs=0.25").student == "macs=0.25"
    assert make_args().student is None
    for plan in (PRESETS["homobert-tiny"], WidthPlan.uniform(24, 12, LayerWidths(3, 8, 32))):
        assert resolve_plan(make_args(student=plan).student, BertConfig()) == plan


@pytest.mark.parametrize(("available", "expected"), [(False, True), (True, False)])
def test_bfloat16_needs_no_accelerator(available, expected, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: available)
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
    assert make_args(bf16=True, use_cpu=False).use_cpu is expected
    assert make_args(bf16=False, use_cpu=False).use_cpu is False


@each(("name", "given", "expected"), [("cpu", None, 0), ("cuda", None, 1), ("cuda", 0, 0), ("cuda", 4, 4)])
def test_a_gpu_has_a_process_that_makes_its_batches(tmp_path, name, given, expected):
    class OnDevice(HomoDistilTrainingArguments):
        device = torch.device(name)

    args = OnDevice(output_dir=str(tmp_path), student="macs=0.5", use_cpu=True, dataloader_num_workers=given)
    assert args.dataloader_num_workers == expected


@pytest.mark.parametrize(("given", "expected"), [("cpu:1", "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1")])
def test_a_rank_on_a_cpu_has_a_device_that_torch_can_load_to(given, expected, monkeypatch):
    args = make_args()
    monkeypatch.setattr(TrainingArguments, "device", property(lambda self: torch.device(given)))
    assert args.device == torch.device(expected)


def test_defaults_are_the_documented_ones():
    args, stock = make_args(), TrainingArguments(output_dir="out", report_to="none", use_cpu=True)
    changed = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(TrainingArguments)
        if field.name not in ("logging_dir", "run_name") and getattr(args, field.name) != getattr(stock, field.name)
    }
    assert changed == {
        "learning_rate": None,  # by the tokens of a step
        "adam_beta2": 0.98,
        "per_device_train_batch_size": 16,
        "adam_epsilon": 1e-6,
        "warmup_steps": 0.05,
        "dataloader_drop_last": True,
        "ddp_find_unused_parameters": False,
        "logging_nan_inf_filter": False,
    }
    assert args.get_warmup_steps(1000) == 50


def test_every_setting_has_one_line_of_help():
    fields = {field.name: field for field in dataclasses.fields(HomoDistilTrainingArguments)}
    assert fields.keys() >= OWN_FIELDS
    for name in OWN_FIELDS:
        text = fields[name].metadata["help"]
        assert 20 <= len(text) <= 110, name
        assert text.endswith("."), name
        assert "\n" not in text


def test_settings_survive_json_and_the_command_line():
    args = make_args(student="homobert-tiny", pruning_end_fraction=0.75, student_dropout=0.1)
    values = {name: value for name, value in json.loads(args.to_json_string()).items() if name in OWN_FIELDS}
    again = make_args(**values)
    assert {name: getattr(again, name) for name in OWN_FIELDS} == {name: getattr(args, name) for name in OWN_FIELDS}
    parser = HfArgumentParser(HomoDistilTrainingArguments)
    flags = (
        "--output_dir o --report_to none --student macs=0.5 --pruning_end_fraction 0.7 --importance_metric magnitude"
    )
    (parsed,) = parser.parse_args_into_dataclasses([*flags.split(), "--rotate_heads", "false", "--use_cpu"])
    assert (parsed.student, parsed.pruning_end_fraction, parsed.importance_metric) == ("macs=0.5", 0.7, "magnitude")
    assert parsed.rotate_heads is False


@each("trainer", [*map(trainer_named, METHODS)])
def test_no_arguments_class_holds_a_setting_without_effect(trainer):
    kind = trainer.arguments_class
    method = kind.__name__.removesuffix("Arguments")
    assert kind.no_part.keys() <= kind.__dataclass_fields__.keys()
    for name, remedy in kind.no_part.items():
        default = kind.__dataclass_fields__[name].default
        other = (
            0.123
            if isinstance(default, float) or default is None
            else {int: 7, str: "other", bool: True}[type(default)]
        )
        with pytest.raises(ValueError, match=f"^{name}=.* (has no part in a run of {method}: |is not one of)"):
            kind(output_dir="out", report_to="none", use_cpu=True, **{name: other})
        assert remedy.endswith(("leave it out", "_weight"))


# The order of the data


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"even_batches": False}, "even_batches=False; the last batches of a pass would be those of some ranks only"),
        ({"split_batches": True}, "split_batches=True; the rows of a step would depend on the number of ranks: leave"),
        ({"dispatch_batches": True}, "dispatch_batches=True; every rank must make its own batches: leave it out"),
        ({"use_seedable_sampler": False}, "use_seedable_sampler=False; every rank must draw its rows in a seeded ord"),
    ],
)
def test_other_ways_to_share_rows_are_refused(config, message):
    with pytest.raises(ValueError, match=f"^accelerator_config has {message}"):
        make_args(accelerator_config=config).pin_data_order()


def test_batches_in_whatever_order_are_refused():
    args = make_args()
    args.dataloader_in_order = False  # no setting of the oldest transformers
    with pytest.raises(
        ValueError, match="^dataloader_in_order=False hands out batches .* workers finish, .*; leave it"
    ):
        args.pin_data_order()


def test_the_order_of_the_data_follows_the_seed():
    args = make_args(seed=7)
    args.pin_data_order()
    assert (args.data_seed, args.accelerator_config.dispatch_batches) == (7, False)
    args = make_args(seed=7, data_seed=8)
    args.pin_data_order()
    assert args.data_seed == 8


# What a run has to be resumed with


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kl_weight", 0.5),
        ("mlm_probability", 0.15),
        ("pruning_end_fraction", 0.7),
        ("weight_decay", 0.1),
        ("optim", "sgd"),
        ("student_dropout", None),
        ("data_seed", 9),
        ("max_steps", 30),
        ("num_train_epochs", 5.0),
        ("bf16", True),
        ("dataloader_drop_last", False),
        pytest.param("torch_compile", True, marks=pytest.mark.skipif(bool(compiling_problem()), reason="old torch")),
    ],
)
def test_each_setting_that_differs_is_warned_of(name, value, caplog):
    gradual = {"pruning_end_fraction": 0.3}
    now, saved = (make_args(**gradual | own).settings_that_matter() for own in ({name: value}, {}))
    caplog.clear()  # what TrainingArguments has to say of a CPU
    warn_of_other_settings(now, json.loads(json.dumps(saved)))
    assert [record.getMessage() for record in caplog.records] == [
        f"resumed with {name}={value!r}, the checkpoint has {saved[name]!r}: the run will differ from an "
        "uninterrupted one; set it as it was to go on exactly"
    ]


def test_the_same_settings_are_resumed_without_a_word(caplog):
    for settings in ({}, {"max_steps": 30, "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}}):
        args = make_args(**settings)
        warn_of_other_settings(args.settings_that_matter(), json.loads(json.dumps(args.settings_that_matter())))
    by_steps = make_args(max_steps=30).settings_that_matter()
    warn_of_other_settings(by_steps, make_args(max_steps=30, num_train_epochs=9).settings_that_matter())
    warn_of_other_settings(by_steps, {"of_another_version": 1})
    warn_of_other_settings(by_steps, make_args(max_steps=30, logging_steps=1, output_dir="b").settings_that_matter())
    assert caplog.records == []


@pytest.mark.skipif(torch.accelerator.is_available(), reason="ranks have GPUs")
@pytest.mark.parametrize("kind", [HomoDistilTrainingArguments, SelfDistillationArguments])
def test_ranks_without_a_gpu_are_told_to_use_the_cpu(kind, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "2")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    with pytest.raises(ValueError, match="^use_cpu=False: 2 processes were started without a GPU .*--use_cpu true"):
        kind(output_dir="out", report_to="none")
