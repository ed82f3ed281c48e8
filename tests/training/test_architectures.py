"""Runs of every architecture but BERT: they start at 0, end at the plan and are exported."""

import pytest
from rows import each
from run_traces import logs_of
from students import logits_of, make_batch
from tiny_architectures import FAMILIES, masked_lm_teacher, of_every_masked_lm, rows_for, tiny_architecture_teacher
from tiny_models import GRADUAL
from transformers import AutoModelForMaskedLM

from homodistil_hf import export_student, verify_export
from homodistil_hf.data.masking import ReplacedTokensCollator
from homodistil_hf.models.architectures import ARCHITECTURES

pytestmark = pytest.mark.slow


@of_every_masked_lm
def test_the_student_starts_equal_to_its_teacher(trained, architecture):
    weights = {"attention_weight": 0.0 if architecture.scores_have_positions else 1.0, "mlm_weight": 0.5}
    trainer = trained(model=masked_lm_teacher(architecture), max_steps=1, rotate_heads=False, **GRADUAL | weights)
    (terms,) = [entry for entry in logs_of(trainer) if "loss_kl" in entry]
    assert terms["loss_mlm"] > 0
    others = {name: value for name, value in terms.items() if name.startswith("loss_") and name != "loss_mlm"}
    assert others == dict.fromkeys(others, 0.0)
    assert len(others) == 3 + (not architecture.scores_have_positions)


@of_every_masked_lm
def test_a_plain_student_keeps_the_hidden_size(trained, architecture, tmp_path):
    settings = {"student": "compact_macs=0.5", "plain": True, "width_multiple": 4}
    trainer = trained(model=masked_lm_teacher(architecture), max_steps=1, **settings)
    layer = trainer.kept.layers[0]
    assert trainer.kept == trainer.plan
    assert trainer.kept.padded().hidden_size == trainer.kept.hidden_size == 32
    assert (layer.attention_size < 32, layer.intermediate_size < 64) == (True, True)
    assert verify_export(trainer.export(tmp_path / "student", "compact")).problems == ()


def test_a_modernbert_of_smaller_heads_is_exported(trained, tmp_path):
    student = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 32}
    trainer = trained(model=masked_lm_teacher(ARCHITECTURES["modernbert"]), max_steps=4, student=student)
    assert trainer.kept == trainer.plan
    for format in ("standard", "compact"):
        folder = export_student(trainer.model, tmp_path / format, format)
        assert verify_export(folder).problems == ()
    narrow, padded = (AutoModelForMaskedLM.from_pretrained(tmp_path / name) for name in ("compact", "standard"))
    assert narrow.num_parameters() < padded.num_parameters()


@pytest.mark.parametrize(("architecture", "heads", "config"), FAMILIES.values(), ids=FAMILIES)
@each("head", "heads")
def test_every_head_learns_from_a_teacher_of_its_task(trained, architecture, head, config):
    kind = head.kind.name
    trainer = trained(
        model=tiny_architecture_teacher(architecture, head, **config),
        max_steps=4,
        per_device_train_batch_size=4,
        **rows_for(head),
    )
    assert trainer.kept == trainer.plan
    assert logits_of(trainer.model.eval(), make_batch(kind)).isfinite().all()


def test_a_discriminator_learns_which_tokens_were_replaced(make_trainer, tmp_path):
    architecture = ARCHITECTURES["electra"]
    (head,) = (head for head in architecture.heads if head.kind.name == "replaced_tokens")
    trainer = make_trainer(
        model=tiny_architecture_teacher(architecture, head), max_steps=8, attention_weight=1.0, **GRADUAL
    )
    assert isinstance(trainer.data_collator, ReplacedTokensCollator)
    trainer.train()
    first, *_, last = [entry for entry in logs_of(trainer) if "loss_kl" in entry]
    assert (first["loss_kl"], first["loss_hidden"]) == (0.0, 0.0)
    assert last["loss_kl"] > 0
    metrics = trainer.evaluate()
    assert metrics["eval_kl"] > 0
    assert 0 < metrics["eval_task_accuracy"] < 1
    report = verify_export(export_student(trainer.model, tmp_path / "student", "compact"))
    assert report.problems == ()
    card = (tmp_path / "student" / "README.md").read_text()
    assert "AutoModelForPreTraining" in card


@of_every_masked_lm
def test_bfloat16_changes_little(trained, architecture):
    def first_terms(**settings):
        trainer = trained(model=masked_lm_teacher(architecture), max_steps=2, **settings)
        return [entry["loss_mlm"] for entry in logs_of(trainer) if "loss_mlm" in entry]

    assert first_terms(bf16=True) == pytest.approx(first_terms(), rel=0.05)
