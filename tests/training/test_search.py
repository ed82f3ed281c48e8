"""Each trial of a search is a new run, and a search leaves a trainer that is one made with the best settings."""

import pytest
import torch
from run_traces import OnStep, differences
from tiny_models import make_blocks, make_teacher
from transformers import DefaultFlowCallback, ProgressCallback, TrainerCallback

from homodistil_hf import HomoDistilTrainer, OneShotTrainer
from homodistil_hf.training.search import default_objective

pytestmark = pytest.mark.slow

optuna = pytest.importorskip("optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {"learning_rate": [1e-3, 3e-3], "kl_weight": [0.5, 2.0], "student": ["16-2x8-32", "macs=0.5"]}


def space(trial):
    return {name: trial.suggest_categorical(name, values) for name, values in SPACE.items()}


@pytest.mark.parametrize("kind", [HomoDistilTrainer, OneShotTrainer])
def test_a_search_tries_new_runs_and_leaves_a_trainer_of_the_best(make_trainer, trained, tmp_path, kind):
    model = make_teacher()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_trainer(trainer_class=kind, model=model, max_steps=2)
    steps = []
    trainer.add_callback(OnStep(steps.append))
    best = trainer.hyperparameter_search(space, n_trials=3, sampler=optuna.samplers.RandomSampler(seed=1))
    assert steps == [1, 2] * 3
    assert {name: getattr(trainer.args, name) for name in SPACE} == best.hyperparameters
    assert differences(model.state_dict(), before) == []
    folders = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert folders == ["run-0", "run-1", "run-2"]
    trainer.train()
    # the same settings in a trainer that knows of no search
    settings = {"max_steps": 2, **best.hyperparameters, "output_dir": str(tmp_path / "fresh")}
    fresh = trained(trainer_class=kind, model=model, **settings)
    assert differences(trainer.model.state_dict(), fresh.model.state_dict()) == []
    metrics = fresh.evaluate()
    assert default_objective(metrics) == best.objective
    assert trainer.evaluate()["eval_kl"] == metrics["eval_kl"]
    trainer.export(tmp_path / "student")


def test_a_trial_is_judged_by_the_student_that_it_leaves(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=3, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=3)
    best = trainer.hyperparameter_search(lambda trial: {"seed": trial.suggest_int("seed", 1, 1)}, n_trials=1)
    assert sorted(path.name for path in (tmp_path / "run" / "run-0").glob("checkpoint-*")) == ["checkpoint-3"]
    trainer.train()
    assert trainer.evaluate()["eval_kl"] == best.objective
    assert 2 in trainer.evaluations


def test_wrong_searches_are_refused(make_trainer):
    trainer = make_trainer(max_steps=2)
    with pytest.raises(ValueError, match="^learning_rat=0.001 is no setting; nearest valid: learning_rate"):
        trainer.hyperparameter_search(lambda trial: {"learning_rat": 1e-3}, n_trials=1)
    with pytest.raises(ValueError, match="^student='macs=2'"):
        make_trainer().hyperparameter_search(lambda trial: {"student": "macs=2"}, n_trials=1)


class WithAlpha(HomoDistilTrainer):
    """A user's: one more argument, which must be given."""

    def __init__(self, *args, alpha, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha = alpha


class Noted(TrainerCallback):
    def __init__(self, name):
        self.name = name


def of_seed(trial):
    return {"seed": trial.suggest_int("seed", 1, 1)}


def test_a_search_keeps_what_a_user_gave_and_changed(make_trainer):
    given, added = Noted("given"), Noted("added")
    trainer = make_trainer(trainer_class=WithAlpha, alpha=5.0, max_steps=1, callbacks=[given])
    trainer.add_callback(added)
    trainer.remove_callback(DefaultFlowCallback)
    trainer.add_callback(DefaultFlowCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.compute_metrics = lambda prediction: {"mine": 1.0}
    before = [type(callback) for callback in trainer.callback_handler.callbacks]
    best = trainer.hyperparameter_search(of_seed, n_trials=1, compute_objective=lambda metrics: metrics["eval_mine"])
    assert (best.objective, trainer.alpha) == (1.0, 5.0)
    after = trainer.callback_handler.callbacks
    assert sorted(map(str, map(type, after))) == sorted(map(str, before))
    assert [callback for callback in after if isinstance(callback, Noted)] == [given, added]


def test_a_callback_that_was_replaced_stays_so(make_trainer):
    trainer = make_trainer(max_steps=1, callbacks=[given := Noted("given")])
    trainer.remove_callback(given)
    trainer.add_callback(other := Noted("other"))
    trainer.hyperparameter_search(of_seed, n_trials=1)
    assert [one for one in trainer.callback_handler.callbacks if isinstance(one, Noted)] == [other]


def test_a_trial_that_can_not_work_leaves_the_trainer_as_it_was(make_trainer):
    students = ["macs=2", "macs=0.5"]
    trainer = make_trainer(max_steps=1)
    best = trainer.hyperparameter_search(
        lambda trial: {"student": trial.suggest_categorical("student", students)},
        n_trials=2,
        catch=(ValueError,),
        sampler=optuna.samplers.GridSampler({"student": students}, seed=1),
    )
    assert best.hyperparameters == {"student": "macs=0.5"}
    trainer.train()


def test_several_evaluation_sets_are_judged_by_their_mean(make_trainer):
    assert default_objective({"eval_a_kl": 1.0, "eval_b_kl": 3.0, "eval_loss": 9.0}) == 2.0
    assert default_objective({"eval_loss": 9.0, "eval_runtime": 1.0}) == 9.0
    assert default_objective({"eval_kl": 1.0, "eval_8-2x4-16_kl": 3.0}) == 1.0  # a nested student's smaller size
    with pytest.raises(ValueError, match="neither eval_kl nor eval_loss .eval_runtime.; give one"):
        default_objective({"eval_runtime": 1.0})
    sets = {"a": make_blocks(8, seed=1), "b": make_blocks(8, seed=2)}
    best = make_trainer(max_steps=1, eval_dataset=sets).hyperparameter_search(of_seed, n_trials=1)
    assert best.objective > 0


def test_a_search_with_an_optimizer_is_refused(make_trainer):
    model = make_teacher()
    trainer = make_trainer(model=model, optimizers=(torch.optim.AdamW(model.parameters()), None))
    with pytest.raises(ValueError, match="^optimizers is given, but each trial has .* give optimizer_cls_and_kwargs"):
        trainer.hyperparameter_search(of_seed, n_trials=1)
