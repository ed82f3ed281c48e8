"""Each trial of a search is a new run, and a search leaves a trainer that is one made with the best settings."""

import pytest
from run_traces import OnStep, differences
from tiny_models import make_teacher

from homodistil_hf import HomoDistilTrainer, OneShotTrainer
from homodistil_hf.training.evaluation_loop import default_objective

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
