"""A student of fewer layers: which stay, what is compared, what its export, card, checkpoints and errors say."""

import json
from typing import Any

import pytest
import torch
from run_traces import SaveAt
from tiny_models import GRADUAL, make_teacher
from transformers import AutoModelForMaskedLM

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.export.export_folder import export_model_from
from homodistil_hf.export.facts import FACTS_FILE
from homodistil_hf.methods.formats import verify_export
from homodistil_hf.models.architectures.modeling_layerwise import encoder_layers
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.runs.kinds import trainer_named

pytestmark = pytest.mark.slow

PLAN = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 8, "intermediate_size": 32}
SETTINGS = GRADUAL | {"max_steps": 10, "student": PLAN | {"num_hidden_layers": 2}, "num_scoring_batches": 2}


def idle_teacher(*idle: int) -> Any:
    """A teacher of four layers, of which some only add nothing."""
    teacher = make_teacher(num_hidden_layers=4)
    with torch.no_grad():
        for index in idle:
            layer = teacher.bert.encoder.layer[index]
            for dense in (layer.attention.output.dense, layer.output.dense):
                dense.weight.zero_()
                dense.bias.zero_()
    return teacher


@pytest.fixture
def deep(make_trainer) -> Any:
    """A trainer from a teacher of four layers, whose inner two do nothing, to a student of two."""

    def make(**settings: Any) -> HomoDistilTrainer:
        return make_trainer(**{"model": idle_teacher(1, 2)} | SETTINGS | settings)

    return make


def test_layers_fade_and_go_while_the_student_is_distilled(deep, tmp_path):
    trainer = deep(attention_weight=0.1, max_steps=20)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    shares = [entry["kept_fraction_layers"] for entry in logs]
    gates = [(1 - step / 6) ** 3 for step in range(6)]
    assert shares[:6] == pytest.approx([0.5 + 0.5 * gate for gate in gates])
    assert set(shares[6:]) == {0.5}
    assert trainer.is_finished
    assert trainer.kept == trainer.plan == WidthPlan.from_dict(PLAN, 2)
    assert len(encoder_layers(trainer.model)) == trainer.model.config.num_hidden_layers == 2
    assert list(trainer.matched_layers) == [2, 3]
    assert trainer.distillation.recorders["teacher"].layers == [0, 3]
    assert len(trainer.model.projections.hidden) == len(trainer.kept_heads) == 2
    own = set(trainer.model.parameters())
    assert {one for group in trainer.bare_optimizer.param_groups for one in group["params"]} == own
    folder = trainer.export(tmp_path / "student")
    stock = AutoModelForMaskedLM.from_pretrained(folder)
    assert (type(stock).__name__, stock.config.num_hidden_layers) == ("BertForMaskedLM", 2)
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    assert facts["student"]["num_hidden_layers"] == 2
    assert facts["teacher"]["num_hidden_layers"] == 4
    card = (folder / "README.md").read_text(encoding="utf-8")
    began = "It has 2 of the 4 layers that it began with (0, 3)"
    assert f"{began}; the others were phased out during the first 30% of training." in card
    assert verify_export(folder).problems == ()


@pytest.mark.parametrize("idle", [(1, 2), (0, 2), (2, 3)], ids=str)
def test_layers_leave_without_which_the_answers_are_nearest(deep, idle):
    trainer = deep(model=idle_teacher(*idle), rotate_heads=False)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.start_student()
    assert trainer.pruner.gates.kept == tuple(layer for layer in range(4) if layer not in idle)
    assert trainer.pruner.gates.kept_fraction == 1
    assert trainer.distillation.weights["kl"] == trainer.args.kl_weight
    assert all(weight.equal(before[name]) for name, weight in trainer.model.state_dict().items())


def test_layers_that_stay_are_those_of_the_checkpoint(deep, tmp_path, monkeypatch):
    trainer = deep(model=idle_teacher(0, 1), callbacks=[SaveAt(1, 5)])
    trainer.train()
    for step in (5, 1):  # later ones are set aside
        resumed = deep(model=idle_teacher(0, 1))
        monkeypatch.setattr("homodistil_hf.pruning.layers.choose_layers", lambda *_: pytest.fail("chosen anew"))
        resumed.train(resume_from_checkpoint=str(tmp_path / f"run/checkpoint-{step}"))
        assert resumed.pruner.gates.kept == (2, 3)
        for name, weight in trainer.model.state_dict().items():
            assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_until_layers_are_gone_the_loss_forgets_what_goes_with_them(deep):
    trainer = deep(attention_weight=0.1)
    whole = [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(4.0), torch.tensor(8.0)]
    distillation = trainer.distillation
    assert float(distillation._sum("hidden", whole)) == 15
    distillation.fade((0, 3), 0.5)
    assert float(distillation._sum("hidden", whole)) == 0.5 + 1 + 4 + 8  # matched: the states behind 2 and 3
    assert float(distillation._sum("attention", whole)) == 1 + 1 + 2 + 8
    distillation.leave_out((0, 3))
    assert float(distillation._sum("hidden", whole[2:])) == 12


@pytest.mark.parametrize("method", ["one_shot", "pruned_first"])
def test_at_once_layers_go_before_the_first_step(trained, method):
    trainer = trained(
        model=make_teacher(num_hidden_layers=4),
        trainer_class=trainer_named(method),
        student=SETTINGS["student"],
        max_steps=2,
    )
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["kept_fraction_layers"] for entry in logs] == [0.5, 0.5]
    assert "the others were removed before the first step." in trainer.card.how


def test_a_checkpoint_on_the_way_exports_what_is_nearest(deep, tmp_path):
    trainer = deep(callbacks=[SaveAt(1, 2)])
    trainer.train()
    for step, number in ((1, 4), (2, 2)):  # g is 0.30 after two of three steps
        folder = export_model_from(tmp_path / f"run/checkpoint-{step}", tmp_path / f"of-{step}", allow_partial=True)
        assert AutoModelForMaskedLM.from_pretrained(folder).config.num_hidden_layers == number
    with pytest.raises(ValueError, match="the student has not reached its plan yet"):
        export_model_from(tmp_path / "run/checkpoint-1", tmp_path / "refused")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": PLAN | {"num_hidden_layers": 5}}, "num_hidden_layers=5, but its teacher has 4; nearest valid: 4"),
    ],
    ids=str,
)
def test_impossible_layers_are_refused(deep, settings, message):
    with pytest.raises(ValueError, match=message):
        deep(**settings)


@pytest.mark.parametrize("method", ["tinybert", "minilm"])
def test_other_methods_keep_all_layers(make_trainer, method):
    with pytest.raises(
        ValueError, match=f"method='{method}' is impossible .* the plan has 2 layers, but this method keeps"
    ):
        make_trainer(
            model=make_teacher(num_hidden_layers=4),
            trainer_class=trainer_named(method),
            student={"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 32, "num_hidden_layers": 2},
        )


def test_random_weights_have_the_layers_of_the_plan(make_trainer, trained, tmp_path):
    settings: Any = {
        "trainer_class": trainer_named("scratch"),
        "student": PLAN | {"num_hidden_layers": 2},
        "max_steps": 2,
    }
    trainer = trained(model=make_teacher(num_hidden_layers=4), callbacks=[SaveAt(1)], **settings)
    exported = AutoModelForMaskedLM.from_pretrained(trainer.export(tmp_path / "student"))
    assert exported.config.num_hidden_layers == 2
    resumed = make_trainer(model=make_teacher(num_hidden_layers=4), **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_a_narrow_budget_leaves_layers_out_and_says_so(trained, caplog):
    settings = SETTINGS | {"student": "macs=0.25"}
    with caplog.at_level("INFO", "homodistil_hf"):
        trainer = trained(model=make_teacher(num_hidden_layers=4), **settings)
    assert len(trainer.kept.layers) == 2
    (told,) = [one.message for one in caplog.records if "fewer, wider layers end closer" in one.message]
    assert told.startswith("student='macs=0.25' keeps 2 of 4 layers")
    assert told.endswith("'macs=0.25,layers=4' keeps all")


def test_layers_stay_where_they_are_named(make_trainer):
    trainer = make_trainer(model=make_teacher(num_hidden_layers=4), **GRADUAL | {"student": "macs=0.25,layers=4"})
    assert len(trainer.plan.layers) == 4


def test_magnitudes_leave_layers_out_too(trained):
    settings = {"student": "macs=0.25", "importance_metric": "magnitude", "num_scoring_batches": 16}
    trainer = trained(model=make_teacher(num_hidden_layers=4), **SETTINGS | settings)
    assert len(trainer.kept.layers) == 2


def test_a_student_without_layers_can_not_go_back_to_one_with_them(deep, tmp_path):
    trainer = deep(callbacks=[SaveAt(1)])
    trainer.train()
    with pytest.raises(ValueError, match=r"checkpoint-1 lacks nothing and has unknown \['bert\.encoder\.layer\.2\."):
        trainer.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-1"))
