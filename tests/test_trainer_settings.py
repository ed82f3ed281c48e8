"""Settings of TrainingArguments that it does not check itself."""

import math

import pytest
from rows import each

import homodistil_hf
from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.runs.config import run_of


def make_args(**settings: object) -> HomoDistilTrainingArguments:
    return HomoDistilTrainingArguments(**{"output_dir": "out", "report_to": "none", "use_cpu": True} | settings)


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
@each(
    "kind",
    [
        "HomoDistilTrainingArguments",
        "SelfDistillationArguments",
        "BinarizationArguments",
    ],
)
def test_values_that_would_fail_late_are_refused(name, value, expected, kind):
    with pytest.raises(ValueError, match=f"^{name}={value} {expected}"):
        getattr(homodistil_hf, kind)(output_dir="out", report_to="none", use_cpu=True, **{name: value})


def test_epochs_are_free_where_steps_count():
    assert make_args(max_steps=5, num_train_epochs=0).max_steps == 5
    assert make_args(max_steps=-1).num_train_epochs == 3


def test_a_tracker_that_is_not_there_is_refused(monkeypatch):
    found = "transformers.integrations.get_available_reporting_integrations"
    monkeypatch.setattr(found, lambda: ["tensorboard"])
    with pytest.raises(ValueError, match="^report_to='wandb' is not installed here; install it, or set report_to"):
        make_args(report_to="wandb")
    with pytest.raises(ValueError, match="^report_to='tensorbord' is unknown; nearest valid: 'tensorboard'"):
        make_args(report_to=["tensorboard", "tensorbord"])
    assert make_args(report_to="tensorboard").report_to == ["tensorboard"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optim": "sgd", "optim_args": "momentum=abc"}, "optim='sgd', optim_args='momentum=abc' can't be used"),
        (
            {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"foo": 1}},
            "lr_scheduler_type='cosine', lr_scheduler_kwargs={'foo': 1} can't be used",
        ),
        ({"lr_scheduler_type": "polynomial", "learning_rate": 1e-9}, "lr_scheduler_type='polynomial'"),
    ],
)
def test_optimizer_and_curve_are_tried_at_once(settings, expected):
    with pytest.raises(ValueError, match=f"^{expected}"):
        make_args(**settings)
    assert make_args(lr_scheduler_type="polynomial").learning_rate is None


@pytest.mark.parametrize(
    ("old", "new"), [("group_by_length", "train_sampling_strategy"), ("no_cuda", "use_cpu"), ("studnt", "student")]
)
def test_the_nearest_setting_of_an_old_one_is_what_it_is_called_now(old, new):
    with pytest.raises(ValueError, match=f"^{old}=True is no setting; nearest valid: {new}$"):
        make_args(**{old: True})
    with pytest.raises(ValueError, match=f"unknown key '{old}' .*nearest valid: '{new}'"):
        run_of({"teacher": "t", "train_data": "x", "output_dir": "o", old: True}, "config")
