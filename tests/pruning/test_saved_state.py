"""What a checkpoint holds beside the weights comes back exactly, into a student of any other widths."""

import json
from pathlib import Path

import pytest
import torch
from homodistil_hf.pruning.saved_state import (
    load_run_state,
    read_state_file,
    save_run_state,
    weights_without_projections,
)
from safetensors.torch import load_file, save_file

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.files.checkpoints import PROJECTIONS_FILE, STATE_FILE, STATE_TENSORS_FILE
from homodistil_hf.files.tensors import WEIGHTS_FILE

INPUT_IDS = torch.randint(5, 96, (4, 16), generator=torch.Generator().manual_seed(3))


def backward(trainer: HomoDistilTrainer) -> None:
    trainer.model.zero_grad()
    trainer.model(INPUT_IDS, labels=INPUT_IDS).loss.backward()
    trainer.pruner.score()


def saved(trainer: HomoDistilTrainer, folder: Path) -> Path:
    trainer.save_model(str(folder))
    save_run_state(folder, trainer.model, trainer.pruner, extra={"answer": 42})
    return folder


@pytest.fixture
def pruned(make_trainer) -> HomoDistilTrainer:
    """A student that was compacted once and has some more channels masked."""
    trainer = make_trainer(compaction_threshold=1.0)
    full, target = trainer.full, trainer.plan
    backward(trainer)
    trainer.pruner.prune_to(type(full)(24, full.layers))
    trainer.pruner.compact()
    backward(trainer)
    trainer.pruner.prune_to(type(full)(target.hidden_size, trainer.kept.layers))
    return trainer


def test_round_trip_into_a_wider_student(make_trainer, pruned, tmp_path):
    folder = saved(pruned, tmp_path / "checkpoint")
    other = make_trainer(output_dir=str(tmp_path / "other"), compaction_threshold=1.0)
    assert load_run_state(folder, other.model, other.pruner) == {"answer": 42}
    expected, found = pruned.model.state_dict(), other.model.state_dict()
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    tensors = other.pruner.state_tensors()
    assert [name for name, t in pruned.pruner.state_tensors().items() if not torch.equal(t, tensors[name])] == []
    assert other.pruner.state_dict() == pruned.pruner.state_dict()
    dropped = pruned.model.config.dropped_hidden_channels
    assert len(dropped) == 8
    assert other.model.config.dropped_hidden_channels == dropped
    with torch.no_grad():
        assert torch.equal(other.model.eval()(INPUT_IDS).logits, pruned.model.eval()(INPUT_IDS).logits)


def test_widths_grow_back_and_the_optimizer_follows(make_trainer, tmp_path):
    trainer = make_trainer()
    folder = saved(trainer, tmp_path / "checkpoint")
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    optimizer = torch.optim.AdamW(trainer.model.parameters())
    backward(trainer)
    optimizer.step()
    trainer.pruner.prune_to(trainer.plan)
    trainer.pruner.compact(optimizer)
    load_run_state(folder, trainer.model, trainer.pruner, optimizer=optimizer)
    after = trainer.model.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert trainer.kept == trainer.full
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in trainer.model.parameters()]
    assert not optimizer.state


def test_weights_are_tied_again(make_trainer, pruned, tmp_path):
    folder = saved(pruned, tmp_path / "checkpoint")
    other = make_trainer(output_dir=str(tmp_path / "other"))
    load_run_state(folder, other.model, other.pruner)
    decoder = other.model.cls.predictions.decoder
    assert decoder.weight is other.model.bert.embeddings.word_embeddings.weight
    assert decoder.bias is other.model.cls.predictions.bias


def test_own_state_is_safetensors_and_json(pruned, tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    save_run_state(folder, pruned.model, pruned.pruner, extra={})
    assert {path.name for path in folder.iterdir()} == {PROJECTIONS_FILE, STATE_TENSORS_FILE, STATE_FILE}
    assert load_file(folder / PROJECTIONS_FILE).keys() == {"embedding.weight", "hidden.0.weight", "hidden.1.weight"}
    masks = {name for name in load_file(folder / STATE_TENSORS_FILE) if name.startswith("mask.")}
    assert masks == {f"mask.{name}" for name in pruned.pruner.masks}
    assert json.loads((folder / STATE_FILE).read_text(encoding="utf-8")).keys() == {"pruner", "trainer"}


def test_projections_are_no_part_of_the_weights(pruned, tmp_path):
    assert not any("projections" in name for name in weights_without_projections(pruned.model))
    assert not any("projections" in name for name in load_file(saved(pruned, tmp_path) / WEIGHTS_FILE))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"embedding_weight": 0.0}, r"has unknown \['projections.embedding.weight'\]"),
        ({"hidden_weight": 0.0}, r"has unknown \['projections.hidden.0.weight', 'projections.hidden.1.weight'\]"),
    ],
)
def test_other_loss_weights_are_refused(make_trainer, pruned, tmp_path, settings, message):
    folder = saved(pruned, tmp_path / "checkpoint")
    other = make_trainer(output_dir=str(tmp_path / "other"), **settings)
    with pytest.raises(ValueError, match=message):
        load_run_state(folder, other.model, other.pruner)


def test_a_missing_parameter_is_named(make_trainer, pruned, tmp_path):
    folder = saved(pruned, tmp_path / "checkpoint")
    weights = load_file(folder / WEIGHTS_FILE)
    del weights["cls.predictions.transform.dense.bias"]
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    other = make_trainer(output_dir=str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"lacks \['cls.predictions.transform.dense.bias'\] and has unknown nothing"):
        load_run_state(folder, other.model, other.pruner)


def test_a_folder_without_state_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="has no pruning_state.json; expected a checkpoint-N"):
        read_state_file(tmp_path)
