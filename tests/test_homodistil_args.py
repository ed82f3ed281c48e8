"""HomoDistil's settings: the default prunes while it distils, the paper's are a recipe, others prune at once."""

import pytest
from rows import each

from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.homodistil_args import PAPER, AtOnceArguments
from homodistil_hf.methods.baselines.one_shot import OneShotArguments, PrunedFirstArguments
from homodistil_hf.runs.config import run_of
from homodistil_hf.runs.further_pretraining import further_pretraining_of
from homodistil_hf.runs.kinds import METHODS, trainer_named
from homodistil_hf.training_args import DistillationArguments

QUIET = {"report_to": "none", "use_cpu": True}
RUN = {"teacher": "t", "train_data": "x.txt", "output_dir": "out", "student": "macs=0.25"}


def test_by_default_a_third_of_the_run_prunes():
    args = HomoDistilTrainingArguments("out", **QUIET)
    assert args.pruning_schedule(100).window == (0.0, 0.3)
    assert (args.num_scoring_batches, args.sensitivity_smoothing) == (16, 0.999)


@pytest.mark.parametrize("student", [0.25, "25%", "1/4"])
def test_a_student_may_be_a_bare_share(student):
    assert HomoDistilTrainingArguments("out", student=student, **QUIET).student == "macs=0.25"
    assert run_of(RUN | {"student": student}, "config").training.student == "macs=0.25"
    members = run_of(RUN | {"student": [0.5, student]}, "config").members
    assert [member.training.student for member in members] == ["macs=0.5", "macs=0.25"]


def test_the_papers_settings_are_one_call():
    args = HomoDistilTrainingArguments.paper("out", student="homobert-tiny", **QUIET)
    assert {name: getattr(args, name) for name in PAPER} == dict(PAPER)
    assert args.student == "homobert-tiny"
    assert args.pruning_schedule(100).window == (0.0, 0.7)
    assert not args.follows_pruning
    assert HomoDistilTrainingArguments.paper("out", max_steps=5, **QUIET).max_steps == 5
    assert HomoDistilTrainingArguments.paper("out", num_train_epochs=2, **QUIET).max_steps == -1
    assert run_of(RUN | {"recipe": "paper", "num_train_epochs": 2}, "config").training.max_steps == -1
    with pytest.raises(
        ValueError, match="num_scoring_batches=0 has no .*; beside a recipe set num_scoring_batches=16"
    ):
        HomoDistilTrainingArguments.paper("out", importance_metric="magnitude", **QUIET)


def test_a_method_without_a_schedule_has_what_is_left_of_the_papers_values():
    args = OneShotArguments.paper("out", student="macs=0.5", **QUIET)
    assert (args.hidden_weight, args.pruning_end_fraction) == (PAPER["hidden_weight"], 0.0)
    with pytest.raises(ValueError, match="PrunedFirstArguments has no values of a paper; make it with"):
        PrunedFirstArguments.paper("out", student="macs=0.5", **QUIET)


def test_the_recipe_of_a_run_is_the_call_and_settings_override_it():
    run = run_of(RUN | {"recipe": "paper", "max_steps": 7}, "config", ["--hidden_weight", "2"])
    called = HomoDistilTrainingArguments.paper("out", student="macs=0.25", max_steps=7, hidden_weight=2.0)
    assert {name: getattr(run.training, name) for name in PAPER} == {name: getattr(called, name) for name in PAPER}
    assert (run.training.max_steps, run.training.hidden_weight) == (7, 2.0)
    # What a run keeps of itself is the same run without the recipe's name.
    again = run_of({name: value for name, value in run.given.items() if name != "recipe"} | RUN, "config")
    assert {name: getattr(again.training, name) for name in PAPER} == {
        name: getattr(run.training, name) for name in PAPER
    }


def test_a_value_of_the_recipe_may_be_set_back_to_the_packages_default():
    run = run_of(RUN | {"recipe": "paper", "mlm_probability": 0.3}, "config")
    assert run.training.mlm_probability == run_of(RUN | run.given, "config").training.mlm_probability == 0.3
    more = run_of(RUN | {"recipe": "paper", "further_pretraining": {"max_steps": 3}}, "config")
    assert further_pretraining_of(more).training.max_steps == 3


def test_pruned_at_once_the_papers_losses_are_left():
    training = run_of(RUN | {"recipe": "paper", "method": "one_shot"}, "config").training
    assert (training.mlm_weight, training.projection_init, training.adam_beta2) == (1.0, "random", 0.999)
    assert (training.num_scoring_batches, training.pruning_end_fraction) == (16, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"recipe": "papper"}, "^recipe='papper' is no recipe of method='homodistil'; its recipes: paper$"),
        ({"recipe": "paper", "method": "scratch"}, "^recipe='paper' is no recipe of method='scratch'; it has none"),
        ({"recipe": "paper", "method": "tinybert"}, "^recipe='paper' is no recipe of method='tinybert'; it has none"),
    ],
)
def test_other_recipes_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        run_of(RUN | settings, "config")


def test_at_once_needs_scores_unless_it_takes_magnitudes():
    with pytest.raises(ValueError, match="^num_scoring_batches=0 leaves units unscored"):
        AtOnceArguments("out", num_scoring_batches=0, **QUIET)
    args = AtOnceArguments("out", importance_metric="magnitude", **QUIET)
    assert args.pruning_schedule(100).end_step == 0


@each("name", [name for name in METHODS if hasattr(trainer_named(name).arguments_class, "student")])
def test_only_homodistil_prunes_while_it_distils(name):
    kind = trainer_named(name).arguments_class
    assert issubclass(kind, DistillationArguments)
    prunes_later = getattr(kind, "pruning_end_fraction", 0.0) > 0
    assert prunes_later == (name == "homodistil")
