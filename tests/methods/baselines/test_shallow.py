"""HomoDistil on fewer layers: the MACs that were asked for, and hidden states matched across the gap."""

import pytest
import torch
from rows import each
from tiny_models import make_blocks, make_teacher

from homodistil_hf.methods.baselines.shallow import ShallowTrainer
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.resizing import keep_layers
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of


@pytest.fixture
def shallow(make_trainer):
    def make(num_teacher_layers: int = 4, **settings):
        teacher = make_teacher(num_hidden_layers=num_teacher_layers)
        return make_trainer(model=teacher, trainer_class=ShallowTrainer, **{"student": "macs=0.25"} | settings)

    return make


@pytest.mark.parametrize(("kept", "expected"), [(None, 3), (2, 2)])
def test_fewer_layers_have_the_macs_that_were_asked_for(shallow, kept, expected):
    trainer = shallow(**{} if kept is None else {"num_layers": kept}, width_multiple=1)
    assert len(trainer.plan.layers) == trainer.args.num_layers == expected
    teacher = widths_of(trainer.distillation.teacher.exact.config)
    assert len(teacher.layers) == 4
    assert encoder_macs(trainer.plan) == pytest.approx(0.25 * encoder_macs(teacher), rel=0.05)
    assert trainer.args.student == trainer.plan.to_json()


def test_hidden_states_are_matched_in_front_of_the_next_kept_layer(shallow):
    trainer = shallow(max_steps=1)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    terms, _ = trainer.distillation.terms(trainer.model, batch, trainer.distillation.count(batch))
    inputs = {"input_ids": batch["input_ids"], "output_hidden_states": True}
    with torch.no_grad():
        teacher = trainer.distillation.teacher.exact(**inputs).hidden_states
        student = keep_layers(to_student(trainer.distillation.teacher.exact), (0, 2, 3)).eval()(**inputs).hidden_states
    pairs = enumerate(trainer.matched_layers, start=1)
    expected = sum(float((teacher[their + 1] - student[own]).square().mean()) for own, their in pairs)
    assert trainer.matched_layers == (1, 2, 3)
    assert float(terms["hidden"].detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_widths_fall_while_it_learns(shallow):
    trainer = shallow(max_steps=12, train_dataset=make_blocks(8))
    before = trainer.kept
    trainer.train()
    assert encoder_macs(trainer.kept) == encoder_macs(trainer.plan) < encoder_macs(before)


def test_heads_that_a_budget_names_are_those_of_the_wider_layers_too(shallow):
    assert shallow(student="macs=0.25,num_attention_heads=2").plan.layers[0].num_attention_heads == 2


def test_a_plan_of_fewer_layers_says_how_many_and_how_wide(shallow):
    trainer = shallow(student="2x16-2x8-32")
    assert trainer.args.num_layers == len(trainer.kept.layers) == 2
    assert trainer.plan == WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))
    assert trainer.matched_layers == (2, 3)
    assert shallow(student="2x16-2x8-32", num_layers=2).plan == trainer.plan
    with pytest.raises(
        ValueError, match="num_layers=3, but student=2x16-2x8-32 names 2 layers and their widths; leave"
    ):
        shallow(student="2x16-2x8-32", num_layers=3)


def test_a_shallow_student_can_be_pruned_at_once(make_trainer):
    trainer = make_trainer(
        model=make_teacher(num_hidden_layers=4),
        trainer_class=ShallowTrainer,
        num_layers=2,
        student="macs=0.25",
        num_scoring_batches=1,
        pruning_end_fraction=0.0,
        max_steps=1,
    )
    full = encoder_macs(trainer.kept)
    trainer.train()
    assert trainer.matched_layers == (2, 3)
    assert trainer.kept == trainer.plan
    assert encoder_macs(trainer.plan) < full


NO_FEWER = r"num_layers={} is outside \[1, 3\], the layers of a shallower"


@each(
    ("settings", "message"),
    [
        *(({"num_layers": number}, NO_FEWER.format(number)) for number in (4, 5)),
        ({"num_layers": 1, "student": "macs=0.5"}, r"num_layers=1 of 4 layers have only 0\.\d\d of the encoder MACs"),
        ({"num_teacher_layers": 1}, "method='shallow' is impossible for this .*: the teacher has one layer"),
    ],
)
def test_layers_that_can_not_go_are_refused(shallow, settings, message):
    with pytest.raises(ValueError, match=message):
        shallow(**settings)
