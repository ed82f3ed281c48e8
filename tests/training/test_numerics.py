"""Values that are not finite: the step is skipped, nothing is poisoned, and it is told how much was skipped."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from run_traces import OnStep, SaveAt, assert_same_run, differences, logs_of, state_of
from tiny_models import GRADUAL, make_teacher

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.files.checkpoints import last_checkpoint
from homodistil_hf.training.exact_trainer import ExactTrainer

pytestmark = pytest.mark.slow

BAD = 3
SETTINGS: dict[str, Any] = GRADUAL | {
    "max_steps": 8,
    "pruning_start_fraction": 0.5,
    "pruning_end_fraction": 0.9,
    "pruning_interval_steps": 1,
    "width_multiple": 1,
    "weight_decay": 0.1,
}


def poison_loss(trainer: HomoDistilTrainer, value: float, steps: range) -> None:
    """Added to the loss: the gradients stay finite."""
    scale_and_log = trainer.scale_and_log

    def spoiled(loss: torch.Tensor, *rest: Any) -> torch.Tensor:
        return scale_and_log(loss + (value if trainer.state.global_step + 1 in steps else 0.0), *rest)

    trainer.scale_and_log = spoiled


def poison_gradient(trainer: HomoDistilTrainer, value: float, steps: range) -> None:
    """One element of one parameter's gradient."""

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        if trainer.state.global_step + 1 in steps:
            gradient.view(-1)[7] = value
        return gradient

    trainer.model.bert.embeddings.LayerNorm.weight.register_hook(spoil)


def poison_logits(trainer: HomoDistilTrainer, value: float, steps: range) -> None:
    """One logit of each prediction of the teacher; −inf leaves the gradients finite."""
    teacher = trainer.distillation.teacher.exact
    bias = teacher.get_output_embeddings().bias.data
    good = float(bias[7])

    def spoil(module: Any, inputs: Any) -> None:
        bias[7] = value if trainer.state.global_step + 1 in steps else good

    teacher.register_forward_pre_hook(spoil)


def poison_hidden_states(trainer: HomoDistilTrainer, value: float, steps: range) -> None:
    """One channel of the teacher's first layer."""

    def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(-1, torch.tensor([5]), value) if trainer.state.global_step + 1 in steps else output

    trainer.distillation.teacher.exact.bert.embeddings.LayerNorm.register_forward_hook(spoil)


POISONS: dict[str, Callable[[HomoDistilTrainer, float, range], None]] = {
    "loss": poison_loss,
    "gradient": poison_gradient,
    "teacher's logits": poison_logits,
    "teacher's hidden states": poison_hidden_states,
}


def train(trainer: HomoDistilTrainer) -> dict[int, dict[str, Any]]:
    """The state after every step."""
    states: dict[int, dict[str, Any]] = {}
    trainer.add_callback(OnStep(lambda step: states.update({step: state_of(trainer)})))
    trainer.train()
    return states


def entries(trainer: HomoDistilTrainer) -> list[dict[str, float]]:
    return [entry for entry in logs_of(trainer) if "num_bad_steps" in entry]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", POISONS)
def test_a_poisoned_step_changes_nothing_but_the_clocks(make_trainer, place, value, caplog):
    trainer, clean = make_trainer(**SETTINGS), make_trainer(**SETTINGS)
    POISONS[place](trainer, value, range(BAD, BAD + 1))
    states = train(trainer)
    clean.train()
    moved = differences(states[BAD - 1], states[BAD])
    kinds = {name.partition(".")[0] for name in moved}
    assert kinds <= {"bad_steps", "groups", "scheduler", "steps", "random"}, moved
    assert trainer.step_log.num_bad_steps == 1
    assert "step 3 is skipped: gradients are not finite (1 in a row)" in caplog.text
    found, expected = entries(trainer), entries(clean)
    assert [entry["num_bad_steps"] for entry in found] == [0, 0] + [1] * 6
    assert all(math.isfinite(number) for entry in found for number in entry.values())
    for name in ("learning_rate", "kept_fraction_hidden", "epoch"):
        assert [entry[name] for entry in found] == [entry[name] for entry in expected]
    assert found[BAD - 1].keys() & {"loss", "loss_mlm", "loss_kl"} == set()
    assert found[BAD].keys() == expected[BAD].keys()
    assert trainer.kept == trainer.plan


@pytest.mark.parametrize("settings", [{"bf16": True}, {"gradient_accumulation_steps": 2}, {"optim": "sgd"}])
def test_types_accumulation_and_optimizers(make_trainer, settings):
    trainer = make_trainer(**SETTINGS | settings)
    poison = poison_gradient if "gradient_accumulation_steps" in settings else poison_loss
    poison(trainer, math.inf, range(BAD, BAD + 1))
    states = train(trainer)
    moved = differences(states[BAD - 1], states[BAD])
    assert [name for name in moved if name.startswith(("weight", "optimizer", "pruner"))] == []
    assert trainer.step_log.num_bad_steps == 1


def test_gradients_are_clipped_by_the_norm_that_was_checked_as_trainer_does(make_trainer, monkeypatch):
    settings = SETTINGS | {"max_grad_norm": 0.05, "bf16": True}
    own = make_trainer(**settings)
    poison_gradient(own, math.nan, range(BAD, BAD + 1))
    own.train()
    norms = [entry["grad_norm"] for entry in entries(own)]
    assert min(norms[: BAD - 1]) > 0.05
    assert norms[BAD - 1] == 0
    monkeypatch.delattr(ExactTrainer, "_clip_grad_norm")
    trainers = make_trainer(**settings)
    poison_gradient(trainers, math.nan, range(BAD, BAD + 1))
    trainers.train()
    assert differences(state_of(own), state_of(trainers)) == []
    assert norms == [entry["grad_norm"] for entry in entries(trainers)]


def test_averages_are_over_the_steps_that_were_not_skipped(make_trainer):
    settings = SETTINGS | {
        "pruning_start_fraction": 0.9,
        "pruning_end_fraction": 0.95,
        "gradient_accumulation_steps": 2,
    }
    each, both = make_trainer(**settings), make_trainer(**settings | {"logging_steps": 4})
    for trainer in (each, both):
        poison_loss(trainer, math.nan, range(BAD, BAD + 1))
        trainer.train()
    good = [entry for entry in entries(each)[:4] if entry["step"] != BAD]
    assert len(good) == 3
    for name in ("loss", "loss_mlm", "loss_kl", "loss_hidden"):
        mean = sum(entry[name] for entry in good) / 3
        assert entries(both)[0][name] == pytest.approx(mean, rel=1e-5)


def test_skipped_steps_are_in_facts_and_survive_a_resume(make_trainer, tmp_path):
    settings = SETTINGS | {"logging_steps": 4}
    whole = make_trainer(callbacks=[SaveAt(BAD)], **settings)
    poison_loss(whole, math.nan, range(2, BAD + 1))
    whole.train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **settings)
    resumed.train(str(tmp_path / "run" / f"checkpoint-{BAD}"))
    assert_same_run(resumed, whole)
    assert resumed.run_facts()["training"]["num_bad_steps"] == 2
    state = json.loads((tmp_path / "run" / f"checkpoint-{BAD}" / "pruning_state.json").read_text(encoding="utf-8"))
    assert state["logs"]["num_bad_steps"] == 2


def test_a_teacher_that_overflows_stops_the_run(make_trainer):
    teacher = make_teacher()
    with torch.no_grad():
        teacher.bert.encoder.layer[0].output.LayerNorm.weight.fill_(1e19)
    trainer = make_trainer(teacher_model=teacher, max_bad_steps=2, **SETTINGS)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    with pytest.raises(FloatingPointError, match=r"for 3 steps in a row \(max_bad_steps=2\).*checkpoint: None"):
        trainer.train()
    assert differences(before, trainer.model.state_dict()) == []


def test_a_run_of_bad_steps_alone_is_no_success(make_trainer):
    trainer = make_trainer(**SETTINGS | {"max_steps": 3})
    poison_loss(trainer, math.nan, range(9))
    with pytest.raises(
        FloatingPointError, match="^the gradient is not finite at the end of step 3; lower learning_ra"
    ):
        trainer.train()
    assert math.isnan(trainer.step_log.mean_loss())


def test_too_many_bad_steps_in_a_row_stop_the_run(make_trainer):
    trainer = make_trainer(max_bad_steps=2, callbacks=[SaveAt(3)], **SETTINGS | {"max_steps": 20})
    for steps in (range(2, 4), range(5, 99)):
        poison_gradient(trainer, math.nan, steps)
    with pytest.raises(FloatingPointError, match=r"for 3 steps in a row \(max_bad_steps=2\).*checkpoint-"):
        trainer.train()
    assert (trainer.state.global_step, trainer.step_log.num_bad_steps) == (6, 5)


def test_bad_steps_are_counted_across_a_resume(make_trainer, tmp_path):
    trainer = make_trainer(max_bad_steps=3, callbacks=[SaveAt(4)], **SETTINGS)
    poison_loss(trainer, math.nan, range(3, 5))
    trainer.train()
    resumed = make_trainer(max_bad_steps=3, output_dir=str(tmp_path / "resumed"), **SETTINGS)
    poison_loss(resumed, math.nan, range(99))
    with pytest.raises(FloatingPointError, match="for 4 steps in a row"):
        resumed.train(str(tmp_path / "run" / "checkpoint-4"))
    assert resumed.step_log.num_bad_steps == 4


# Which checkpoint is good


def test_the_last_good_checkpoint_is_one_that_a_good_step_left(make_trainer, tmp_path):
    """Steps 5 and later are bad: checkpoint-4 may hold the reason, checkpoint-2 was trained on."""
    trainer = make_trainer(max_bad_steps=2, callbacks=[SaveAt(2, 4, 5, 6)], **SETTINGS)
    poison_loss(trainer, math.nan, range(5, 99))
    with pytest.raises(FloatingPointError, match="Last good checkpoint: .*checkpoint-2$"):
        trainer.train()
    assert last_checkpoint(tmp_path / "run").name == "checkpoint-6"
    resumed = make_trainer(**SETTINGS)
    resumed.train(str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 8


def test_bad_steps_push_no_good_checkpoint_out(make_trainer, tmp_path):
    trainer = make_trainer(
        save_strategy="steps", save_steps=1, save_total_limit=1, max_bad_steps=3, **SETTINGS | {"max_steps": 20}
    )
    poison_gradient(trainer, math.inf, range(5, 99))
    with pytest.raises(FloatingPointError, match="Last good checkpoint: .*checkpoint-4$"):
        trainer.train()
    assert sorted(os.listdir(tmp_path / "run")) == ["checkpoint-4", "checkpoint-7"]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("parameter", "parameter bert.embeddings.LayerNorm.weight"),
        ("exp_avg", "exp_avg of bert.embeddings.LayerNorm.weight"),
        ("score", "score hidden"),
    ],
)
def test_a_poisoned_state_is_not_saved(make_trainer, tmp_path, place, name):
    trainer = make_trainer(save_strategy="steps", save_steps=2, **SETTINGS)
    trainer.add_callback(OnStep(lambda step: step == 4 and spoil(trainer, place)))
    with pytest.raises(FloatingPointError, match=f"{name} is not finite at the end of step 4.*checkpoint-2$"):
        trainer.train()
    assert os.listdir(tmp_path / "run") == ["checkpoint-2"]


def spoil(trainer: HomoDistilTrainer, place: str) -> None:
    parameter = trainer.model.bert.embeddings.LayerNorm.weight
    tensors = {
        "parameter": parameter.data,
        "exp_avg": trainer.optimizer.state[parameter]["exp_avg"],
        "score": next(iter(trainer.pruner.scores.state.values())),
    }
    tensors[place].view(-1)[0] = math.inf


# A gradient scaler: accelerate refuses float16 on a CPU, but the scaler's arithmetic is the same there.

SCALE = 2.0**10


def with_scaler(trainer: HomoDistilTrainer, **settings: Any) -> torch.amp.GradScaler:
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, **settings)
    trainer.accelerator.scaler = scaler
    return scaler


SCALED = SETTINGS | {"max_grad_norm": 0.0, "pruning_start_fraction": 0.0}  # else accelerate would have to unscale


def test_scaled_gradients_give_the_same_scores_masks_and_weights(make_trainer):
    """A power of two scales without rounding, so all is equal to the last bit."""
    scaled, plain = make_trainer(**SCALED), make_trainer(**SCALED)
    scaler = with_scaler(scaled, growth_interval=3)
    scaled.train()
    plain.train()
    assert scaler.get_scale() == SCALE * 4  # grew after steps 3 and 6
    assert differences(state_of(scaled), state_of(plain)) == []
    assert scaled.kept == scaled.plan


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_scaler_skips_what_is_not_scored_and_shrinks(make_trainer, value):
    settings = SCALED | {"pruning_start_fraction": 0.5}
    scaled, plain = make_trainer(**settings), make_trainer(**settings)
    scaler = with_scaler(scaled)
    for trainer in (scaled, plain):
        poison_gradient(trainer, value, range(BAD, BAD + 1))
    states = train(scaled)
    plain.train()
    moved = differences(states[BAD - 1], states[BAD])
    assert [name for name in moved if name.startswith(("weight", "optimizer", "pruner"))] == []
    assert scaler.get_scale() == SCALE / 2
    assert scaled.step_log.num_bad_steps == 1
    assert differences(state_of(scaled), state_of(plain)) == []
    rates = [[entry["learning_rate"] for entry in entries(trainer)] for trainer in (scaled, plain)]
    assert rates[0] == rates[1]


def test_a_norm_that_overflows_is_skipped_by_the_scaler_too(make_trainer):
    """Every gradient is finite, their norm is not: such a step is not scored, so it must not be taken either."""
    trainer = make_trainer(**SCALED | {"pruning_start_fraction": 0.5})  # else the hooked parameter would be replaced
    scaler = with_scaler(trainer)
    parameter = trainer.model.bert.embeddings.word_embeddings.weight
    parameter.register_hook(lambda g: torch.full_like(g, 1e30) if trainer.state.global_step + 1 == BAD else g)
    states = train(trainer)
    moved = differences(states[BAD - 1], states[BAD])
    assert [name for name in moved if name.startswith(("weight", "optimizer"))] == []
    assert scaler.get_scale() == SCALE / 2
    assert trainer.step_log.num_bad_steps == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_float16_on_a_device(make_trainer, tmp_path):
    settings = SETTINGS | {"use_cpu": False, "fp16": True, "max_steps": 40}
    whole = make_trainer(callbacks=[SaveAt(20)], **settings)
    poison_gradient(whole, math.inf, range(11, 13))
    whole.train()
    assert whole.step_log.num_bad_steps >= 2
    assert whole.kept == whole.plan
    assert all(bool(parameter.isfinite().all()) for parameter in whole.model.parameters())
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **settings)
    resumed.train(str(Path(tmp_path, "run", "checkpoint-20")))
    assert resumed.accelerator.scaler.get_scale() == whole.accelerator.scaler.get_scale()
    assert_same_run(resumed, whole)
