"""Students that are cut to the plan before training, by gradients or by magnitudes, then run like any other."""

import dataclasses
from typing import Any

import pytest
from rows import each
from run_traces import logs_of
from tiny_models import make_blocks, make_teacher, tiny_tokenizer
from torch import nn

from homodistil_hf import HomoDistilTrainer, OneShotTrainer
from homodistil_hf.methods.baselines.one_shot import PrunedFirstTrainer
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.pruning.masks import choose_masks, full_masks, mask_digest
from homodistil_hf.pruning.pruner import Pruner
from homodistil_hf.pruning.scores import MagnitudeScores, SensitivityScores


@pytest.fixture
def one_shot(make_trainer) -> Any:
    def make(**settings: Any) -> OneShotTrainer:
        return make_trainer(trainer_class=OneShotTrainer, **{"max_steps": 6} | settings)

    return make


@pytest.fixture
def chosen(monkeypatch) -> list[Any]:
    """The masks of every choice."""
    seen: list[Any] = []
    prune_to = Pruner.prune_to

    def watched(pruner: Pruner, *args: Any, **kwargs: Any) -> Any:
        seen.append(prune_to(pruner, *args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(Pruner, "prune_to", watched)
    return seen


def test_has_the_plans_widths_from_the_first_step_on(one_shot):
    trainer = one_shot()
    trainer.train()
    logs = logs_of(trainer)[:-1]
    assert {(entry["kept_fraction_hidden"], entry["kept_fraction_ffn"]) for entry in logs} == {(0.5, 0.5)}
    assert logs[0]["loss_kl"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_scoring_batches", "settings"),
    [(1, {}), (3, {"mlm_weight": 0.0, "hidden_weight": 1e6, "attention_weight": 1e6}), (100, {})],
)
def test_keeps_the_units_that_the_teachers_gradients_score_highest(one_shot, chosen, num_scoring_batches, settings):
    trainer = one_shot(num_scoring_batches=num_scoring_batches, rotate_heads=False, **settings)
    teacher = trainer.model
    groups = encoder_groups(teacher)
    scores = SensitivityScores(groups)
    for number, batch in enumerate(list(trainer.get_train_dataloader())[:num_scoring_batches]):
        teacher.zero_grad()
        logits = teacher.eval()(batch["input_ids"]).logits
        nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()).backward()
        scores.update(dict(teacher.named_parameters()), groups, smoothing=number / (number + 1))
    teacher.zero_grad()
    expected = choose_masks(scores.scores({}, groups), full_masks(groups), plan=trainer.plan)
    trainer.train()
    assert [mask_digest(masks) for masks in chosen] == [mask_digest(expected)]


def test_a_plan_of_full_width_is_only_distilled(one_shot, chosen):
    trainer = one_shot(student="macs=1.0")
    trainer.train()
    assert chosen == []
    assert logs_of(trainer)[0]["loss_kl"] == 0.0


@each(
    ("settings", "message"),
    [
        ({"num_scoring_batches": 0}, "num_scoring_batches=0 leaves units unscored that go before .* the default is 1"),
        ({"pruning_end_fraction": 0.3}, "pruning_end_fraction=0.3 has no part in a run of OneShot: everyth"),
    ],
)
def test_settings_that_leave_nothing_to_choose_by_are_refused(one_shot, settings, message):
    with pytest.raises(ValueError, match=message):
        one_shot(**settings)


def test_pruning_first_keeps_the_units_of_the_largest_weights(make_trainer, chosen):
    trainer = make_trainer(trainer_class=PrunedFirstTrainer, max_steps=2)
    groups = encoder_groups(trainer.model)
    magnitudes = MagnitudeScores(groups).scores(dict(trainer.model.named_parameters()), groups)
    expected = choose_masks(magnitudes, full_masks(groups), plan=trainer.plan)
    weights = make_teacher().bert.encoder.layer[0].intermediate.dense.weight.detach()
    trainer.train()
    assert [mask_digest(masks) for masks in chosen] == [mask_digest(expected)]
    kept = expected["ffn.0"]
    assert float(weights[kept].abs().mean()) > float(weights[~kept].abs().mean())
    assert trainer.args.importance_metric == "magnitude"
    assert logs_of(trainer)[0]["loss_kl"] > 0.01


def test_pruning_first_reads_no_data_to_choose(make_trainer):
    trainer = make_trainer(trainer_class=PrunedFirstTrainer)
    trainer.get_train_dataloader = lambda: pytest.fail("data were read")
    trainer.start_student()
    trainer.begin_training()
    trainer.begin_step()
    assert trainer.kept == trainer.plan


@pytest.mark.slow
def test_settings_given_are_left_alone_and_serve_the_next_trainer(make_trainer):
    given = dataclasses.replace(make_trainer().args, learning_rate=None, overwrite_output_dir=True)
    before = given.to_dict()
    data = {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}
    models = (make_teacher(), make_teacher(hidden_size=256, num_attention_heads=4))
    rates = [HomoDistilTrainer(model, given, **data).args.learning_rate for model in models]
    assert rates[0] > rates[1]
    assert given.to_dict() == before


@pytest.mark.slow
def test_training_starts_without_left_over_gradients(one_shot):
    """The first step's gradient is that of its own batch."""
    norms = []
    for num_scoring_batches in (1, 2):
        trainer = one_shot(num_scoring_batches=num_scoring_batches, train_dataset=make_blocks(8), max_steps=1)
        trainer.train()
        norms.append(logs_of(trainer)[0]["grad_norm"])
    # One batch holds all rows, so scores and choices are the same however often it is seen.
    assert norms[0] == norms[1]


def test_the_card_tells_how_units_were_chosen(one_shot, make_trainer):
    by_scores, by_weights = one_shot(), one_shot(importance_metric="magnitude")
    assert "were scored on a few batches" in by_scores.card_of_run.how
    for trainer in (by_weights, make_trainer(trainer_class=PrunedFirstTrainer)):
        assert "whose weights have the smallest magnitudes" in trainer.card_of_run.how


def test_the_card_tells_what_a_student_started_as(make_trainer):
    assert "an exact copy of its teacher" in make_trainer().card_of_run.how
    start, teacher = make_teacher(), make_teacher(hidden_size=64)
    start.name_or_path = "me/small"
    trainer = make_trainer(model=start, teacher_model=teacher)
    assert "began as a copy of me/small, another model than its teacher. While" in trainer.card_of_run.how
    assert trainer.run_facts()["settings"]["started_as"] == "me/small"
    assert make_trainer(model=start, teacher_model=start).started_as is None  # it is the teacher
