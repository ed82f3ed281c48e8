"""Masks apart from the path to them."""

import pytest
import torch
from methods_here import needs
from tiny_models import GRADUAL, tiny_config

from benchmarks.results.changes import SHAPES, SIZES, VARIANTS, go_through, units_left
from homodistil_hf import HomoDistilTrainer
from homodistil_hf.experiments.config import run_of
from homodistil_hf.methods.registry import METHODS
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.plans.resolve import resolve_plan

SETTINGS = {"max_steps": 10, "rotate_heads": False}
SLOWLY = GRADUAL | {"pruning_interval_steps": 1, "pruning_end_fraction": 0.6}


def assert_same_units(kept, others):
    assert kept.keys() == others.keys()
    for name in kept:
        assert kept[name].tolist() == others[name].tolist()


def test_units_that_are_left_are_those_of_the_teacher(make_trainer):
    trainer = make_trainer(**SLOWLY | SETTINGS, learning_rate=0.0)
    kept = units_left(trainer)
    teacher = trainer.distillation.teacher.exact.bert.embeddings.word_embeddings.weight
    trainer.train()
    student = trainer.model.bert.embeddings.word_embeddings.weight
    assert torch.equal(student, teacher[:, kept["hidden"]])
    assert {name: len(units) for name, units in kept.items()} == {
        name: group.num_units for name, group in encoder_groups(trainer.model).items()
    }


@pytest.mark.parametrize("size", SIZES)
def test_variants_of_other_shapes_have_the_same_macs(size):
    config = tiny_config(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    expected = encoder_macs(resolve_plan(SIZES[size], config))
    for shapes in SHAPES.values():
        if size in shapes:
            assert encoder_macs(resolve_plan(shapes[size], config)) == pytest.approx(expected, rel=0.01)


@needs("baselines")
def test_each_way_can_end_with_the_units_of_the_other(make_trainer, tmp_path):
    one_shot = METHODS["one_shot"]
    ways = {HomoDistilTrainer: SLOWLY | SETTINGS, one_shot: SETTINGS}
    gradual, at_once = (
        make_trainer(trainer_class=trainer_class, **way, output_dir=str(tmp_path / trainer_class.method))
        for trainer_class, way in ways.items()
    )
    units = [units_left(trainer) for trainer in (gradual, at_once)]
    for trainer in (gradual, at_once):
        trainer.train()
    assert any(a.tolist() != b.tolist() for a, b in zip(*(kept.values() for kept in units), strict=True))
    for trainer_class, wanted in ((one_shot, units[0]), (HomoDistilTrainer, units[1])):
        way = ways[trainer_class]
        trainer = make_trainer(trainer_class=trainer_class, **way, output_dir=str(tmp_path / "through"), seed=1)
        kept = units_left(trainer)
        go_through(trainer, wanted, kept)
        trainer.args.overwrite_output_dir = True
        trainer.train()
        assert_same_units(kept, wanted)


@needs("baselines")
def test_the_settings_of_every_variant_are_valid():
    for settings in filter(None, VARIANTS.values()):
        run_of({"teacher": "x", "student": "macs=0.5", "train_data": ["x"], "output_dir": "x"} | settings, "the test")
