"""The bases that trainers share: the private methods of Trainer that they override, and the smallest subclass."""

import pytest
import torch
from run_traces import logs_of
from tiny_models import make_blocks, tiny_tokenizer
from tiny_trainers import QUARTER, tiny_trainer
from transformers import Trainer

from homodistil_hf import HomoDistilTrainer, MaskedLMCollator
from homodistil_hf.distillation.objective import DistillationLoss
from homodistil_hf.runs.kinds import METHODS, trainer_named
from homodistil_hf.training.distillation_trainer import DistillationTrainer
from homodistil_hf.training.exact_trainer import ExactTrainer
from homodistil_hf.training.run_facts import changed_settings

PRIVATE = [
    "_clip_grad_norm",
    "_determine_best_metric",
    "_finalize_training",
    "_get_dataloader",
    "_get_output_dir",
    "_get_train_sampler",
    "_hp_search_setup",
    "_init_training_state",
    "_load_best_model",
    "_load_from_checkpoint",
    "_push_from_checkpoint",
    "_save_checkpoint",
]
"""Private methods of Trainer that are overridden: each may change with any of its versions. No more than these."""


def overridden(trainer_class: type, base: type) -> list[str]:
    """Private methods of Trainer that a class, or one between it and its base, overrides."""
    classes = trainer_class.__mro__[: trainer_class.__mro__.index(base)]
    names = {name for own in classes for name in vars(own) if name.startswith("_") and not name.startswith("__")}
    return sorted(names & vars(Trainer).keys())


def test_private_methods_of_trainer_are_overridden_in_one_class():
    assert overridden(ExactTrainer, Trainer) == PRIVATE
    for trainer_class in (DistillationTrainer, *map(trainer_named, METHODS)):
        assert overridden(trainer_class, ExactTrainer) == []


def test_settings_that_differ_are_those_that_somebody_gave(make_trainer):
    names = changed_settings(make_trainer(max_steps=7, learning_rate=None).args).keys()
    made = {"data_seed", "dataloader_num_workers", "disable_tqdm", "do_eval", "activation_checkpointing"}
    assert "max_steps" in names
    assert not names & made
    assert changed_settings(make_trainer(data_seed=5, overwrite_output_dir=True).args)["data_seed"] == 5


def test_an_export_draws_nothing_from_a_run_that_goes_on(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    trainer.model.train()
    weights, drawn = trainer.model.state_dict(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    with pytest.raises(ValueError, match="not reached its plan yet.*allow_partial"):
        trainer.export(tmp_path / "student")
    trainer.export(tmp_path / "student", allow_partial=True)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(weights[name], before[name]) for name in before)
    assert trainer.model.training


class Widening(DistillationTrainer):
    """The smallest subclass: the student stays as it is."""

    method = "widening"
    card = HomoDistilTrainer.card

    def make_distillation(self, teacher):
        return DistillationLoss(self.model, teacher, weights={"kl": 1.0}, kept_heads=self.matched_heads)


@pytest.mark.slow
def test_a_subclass_needs_a_name_and_its_losses(make_trainer, tmp_path):
    trainer = make_trainer(trainer_class=Widening, student="macs=1.0", max_steps=2)
    result = trainer.train()
    assert trainer.is_finished
    assert (trainer.state.global_step, trainer.kept) == (2, trainer.full)
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["loss"] == entry["loss_kl"] for entry in losses)
    assert result.training_loss == pytest.approx(sum(entry["loss"] for entry in losses) / 2)
    exported = trainer.dense_student()
    input_ids = torch.tensor(make_blocks(2)["input_ids"])
    assert torch.equal(exported(input_ids).logits, trainer.model.eval()(input_ids).logits)
    assert trainer.export(tmp_path / "student").joinpath("model.safetensors").is_file()


def test_a_collator_that_another_run_had_makes_the_same_run(tmp_path):
    collator, logs = MaskedLMCollator(tiny_tokenizer()), []
    for name in ("first", "second"):
        settings = {"max_steps": 12, "num_scoring_batches": 2, "student": QUARTER}
        trainer = tiny_trainer(tmp_path / name, data_collator=collator, **settings)
        trainer.train()
        logs.append([entry["loss"] for entry in logs_of(trainer) if "loss" in entry])
    assert collator.epoch > 0
    assert logs[0] == logs[1]
