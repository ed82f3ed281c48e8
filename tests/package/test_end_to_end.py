"""From text and a teacher on disk to a smaller model that stock transformers load, in this process and in others."""

import pytest
import torch
from datasets import load_dataset
from students import assert_same_logits, logits_of
from transformers import AutoModelForMaskedLM, AutoTokenizer

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, tokenize_to_blocks

pytestmark = pytest.mark.slow


def test_a_student_can_be_a_teacher_again(make_trainer, tmp_path):
    first = make_trainer(max_steps=4, student={"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40})
    first.train()
    folder = first.export(tmp_path / "first", "compact")
    second = make_trainer(
        model=str(folder),
        output_dir=str(tmp_path / "second"),
        max_steps=4,
        student={"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    )
    assert_same_logits(logits_of(second.model), logits_of(first.model))
    second.train()
    assert second.evaluate()["eval_kept_fraction_hidden"] == pytest.approx(16 / 24)


# The real teacher


@pytest.mark.real_data
def test_a_real_teacher_is_pruned_without_losing_its_mind(real_data, tmp_path):
    """8 steps on Wikipedia, to three quarters of a real encoder's MACs."""
    tokenizer = AutoTokenizer.from_pretrained(real_data / "teacher")
    text = load_dataset("parquet", data_files=str(real_data / "corpora/wikipedia/validation.parquet"), split="train")
    blocks = tokenize_to_blocks(text.select(range(40)), tokenizer, max_seq_length=64)
    args = HomoDistilTrainingArguments(
        output_dir=str(tmp_path / "run"),
        student="macs=0.75",
        max_steps=8,
        per_device_train_batch_size=4,
        num_scoring_batches=4,
        pruning_interval_steps=1,
        pruning_end_fraction=0.7,
        learning_rate=2e-4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = HomoDistilTrainer(
        model=str(real_data / "teacher"),
        args=args,
        train_dataset=blocks.select(range(64)),
        eval_dataset=blocks.select(range(64, 80)),
        processing_class=tokenizer,
    )
    teacher = trainer.evaluate()
    trainer.train()
    student = trainer.evaluate()
    assert teacher["eval_kl"] == 0.0
    assert 0.1 < student["eval_kl"] < 1.0
    assert student["eval_mlm_accuracy"] > 0.6 * teacher["eval_mlm_accuracy"] > 0.2
    stock = AutoModelForMaskedLM.from_pretrained(trainer.export(tmp_path / "student")).eval()
    input_ids = torch.tensor(blocks.select(range(2))["input_ids"])
    with torch.no_grad():
        assert_same_logits(stock(input_ids).logits, trainer.model.eval()(input_ids).logits)
