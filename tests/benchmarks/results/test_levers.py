"""Masks apart from the path to them."""

import pytest
import torch
from tiny_models import GRADUAL
from transformers import TrainerCallback

from benchmarks.results.levers import ARMS, HiddenWeightFalls, go_through, score_ffn_by_r2d2, units_left
from homodistil_hf import HomoDistilTrainer, OneShotTrainer
from homodistil_hf.experiments.config import run_of
from homodistil_hf.models.units import encoder_groups

SETTINGS = {"max_steps": 10, "pruning_interval_steps": 1, "pruning_end_fraction": 0.6, "rotate_heads": False}


def assert_same_units(kept, others):
    assert kept.keys() == others.keys()
    for name in kept:
        assert kept[name].tolist() == others[name].tolist()


def test_units_that_are_left_are_those_of_the_teacher(make_trainer):
    trainer = make_trainer(**GRADUAL | SETTINGS, learning_rate=0.0)
    kept = units_left(trainer)
    teacher = trainer.distillation.teacher.exact.bert.embeddings.word_embeddings.weight
    trainer.train()
    student = trainer.model.bert.embeddings.word_embeddings.weight
    assert torch.equal(student, teacher[:, kept["hidden"]])
    assert {name: len(units) for name, units in kept.items()} == {
        name: group.num_units for name, group in encoder_groups(trainer.model).items()
    }


def test_each_way_can_end_with_the_units_of_the_other(make_trainer, tmp_path):
    ways = {HomoDistilTrainer: GRADUAL | SETTINGS, OneShotTrainer: SETTINGS}
    gradual, at_once = (
        make_trainer(trainer_class=trainer_class, **way, output_dir=str(tmp_path / trainer_class.method))
        for trainer_class, way in ways.items()
    )
    units = [units_left(trainer) for trainer in (gradual, at_once)]
    for trainer in (gradual, at_once):
        trainer.train()
    assert any(a.tolist() != b.tolist() for a, b in zip(*(kept.values() for kept in units), strict=True))
    for trainer_class, wanted in ((OneShotTrainer, units[0]), (HomoDistilTrainer, units[1])):
        way = ways[trainer_class]
        trainer = make_trainer(trainer_class=trainer_class, **way, output_dir=str(tmp_path / "through"), seed=1)
        kept = units_left(trainer)
        go_through(trainer, wanted, kept)
        trainer.args.overwrite_output_dir = True
        trainer.train()
        assert_same_units(kept, wanted)


def test_the_settings_of_every_arm_are_valid():
    for settings in ARMS.values():
        run_of({"teacher": "x", "student": "macs=0.5", "train_data": ["x"], "output_dir": "x"} | settings, "the test")


def test_the_weight_of_hidden_states_falls_with_the_rate(make_trainer):
    trainer = make_trainer(max_steps=8, learning_rate=1e-4, warmup_steps=2, learning_rate_hold_fraction=0.5)
    trainer.add_callback(HiddenWeightFalls(trainer, 3.0))
    told = []
    trainer.add_callback(Tells(lambda: told.append((trainer.distillation.weights["hidden"], rate_of(trainer)))))
    trainer.train()
    first, peak = trainer.args.hidden_weight, 1e-4
    assert [weight for weight, rate in told if rate == peak] == [first] * 3
    falling = [(weight, rate) for weight, rate in told[4:] if rate < peak]
    assert len(falling) >= 3
    for weight, rate in falling:
        assert weight == pytest.approx(3 + (first - 3) * rate / peak)


def test_gradient_free_scores_choose_the_ffn_alone(make_trainer, tmp_path):
    left = []
    for name in ("own", "r2d2"):
        trainer = make_trainer(trainer_class=OneShotTrainer, **SETTINGS, output_dir=str(tmp_path / name))
        if name == "r2d2":
            score_ffn_by_r2d2(trainer)
        left.append(units_left(trainer))
        trainer.train()
    own, other = left
    changed = {name for name in own if own[name].tolist() != other[name].tolist()}
    assert changed
    assert all(name.startswith("ffn.") for name in changed)


def rate_of(trainer):
    return trainer.lr_scheduler.get_last_lr()[0]


class Tells(TrainerCallback):
    def __init__(self, tell):
        self.tell = tell

    def on_step_begin(self, *args, **kwargs):
        self.tell()
