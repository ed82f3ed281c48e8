"""What every method shares: data, counts, checkpoints, exports; and what they are called."""

import json
from typing import Any

import pytest
import torch
from method_students import student_of
from rows import each
from run_traces import logs_of
from students import make_batch
from tiny_files import write_config
from tiny_models import GRADUAL, make_blocks
from transformers import BertForMaskedLM

from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.kinds import KINDS, METHODS, trainer_named
from homodistil_hf.runs.student import make_trainer as make_configured

STUDENTS = sorted(METHODS.keys() - KINDS.keys())  # of masked words
TAKE_SCORES = ("homodistil", "one_shot")  # from batches before the first step, that come again


@pytest.mark.slow
@pytest.mark.parametrize("method", STUDENTS)
def test_a_run_of_every_method_learns_from_the_whole_teacher(method, tmp_path):
    config = write_config(tmp_path, method=method, student=student_of(method))
    trainer = make_configured(parse_run([str(config)]), lambda line: None)
    expected = BertForMaskedLM.from_pretrained(tmp_path / "teacher").state_dict()
    found = trainer.distillation.teacher.exact.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", STUDENTS)
def test_every_method_learns_and_exports_a_stock_model(trainer_of, method, tmp_path):
    trainer = trainer_of(method, train_dataset=make_blocks(8), max_steps=16, learning_rate=5e-3)
    trainer.train()
    losses = [entry["loss"] for entry in logs_of(trainer) if "loss" in entry]
    # These start close to their teacher and are pruned away from it: the loss has little or nothing to fall from.
    assert len(losses) == 16
    assert method == "homodistil" or losses[-1] < 0.99 * losses[0]
    metrics = trainer.evaluate()
    assert metrics["eval_kl"] > 0
    folder = trainer.export(tmp_path / "student")
    stock = BertForMaskedLM.from_pretrained(folder).eval()
    inputs = make_batch()["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(stock(inputs).logits, trainer.model.eval()(inputs).logits, rtol=0, atol=1e-5)
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    assert facts["training"]["method"] == method
    assert trainer.args.own_settings().keys() <= facts["settings"].keys()
    assert not trainer_named(method).arguments_class.no_part.keys() & facts["settings"].keys()
    assert facts["student"]["encoder_macs"] == encoder_macs(trainer.plan)


@pytest.mark.slow
def test_all_methods_see_the_same_batches(trainer_of, tmp_path):
    seen: dict[str, list[Any]] = {}
    for method in STUDENTS:
        student = GRADUAL if method == "homodistil" else {}
        settings = student | {"max_steps": 3, "student_dropout": 0.1}
        if "rotate_heads" in trainer_named(method).arguments_class.__dataclass_fields__:
            settings["rotate_heads"] = False
        trainer = trainer_of(method, output_dir=str(tmp_path / method), **settings)
        batches = seen.setdefault(method, [])
        count = trainer.distillation.count
        trainer.distillation.count = lambda batch, batches=batches, count=count: batches.append(batch) or count(batch)
        trainer.train()
    expected = seen.pop("homodistil")
    assert len(expected) == 3
    for method, batches in seen.items():
        assert len(batches) == 3 or method in TAKE_SCORES
        for batch, other in zip(batches[-3:], expected, strict=True):
            assert torch.equal(batch["input_ids"], other["input_ids"])
            assert torch.equal(batch["labels"], other["labels"])


def test_unknown_methods_and_settings_name_the_nearest():
    with pytest.raises(ValueError, match="method='homodistill' is unknown; nearest valid: 'homodistil'$"):
        trainer_named("homodistill")


@each("method", METHODS)
def test_every_class_carries_its_name_and_all_sentences_of_its_card(method):
    trainer = trainer_named(method)
    assert trainer.method == method
    card = getattr(trainer, "card", None)  # further pre-training and bits write their own
    assert card is None or all((card.student, card.made, card.how, card.paper))
