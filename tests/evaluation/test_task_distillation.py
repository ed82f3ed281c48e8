"""Fine-tuning beside a teacher: what is compared, how projections start, and what memory holds."""

import gc

import pytest
import torch
from datasets import Dataset
from own_rows import rows
from students import WITHOUT_DROPOUT
from tiny_models import make_teacher, tiny_tokenizer
from torch.nn import functional as F
from transformers import DataCollatorWithPadding

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.evaluation.evaluated_model import load_model
from homodistil_hf.evaluation.fine_tuning import encoded_rows
from homodistil_hf.models.heads import forward, with_fresh_head
from homodistil_hf.tasks.columns import Columns
from homodistil_hf.tasks.kinds import CLASSES
from homodistil_hf.tasks.rows_task import RowsTask
from homodistil_hf.training.small_start import BESIDE_A_TEACHER


def classifier(seed):
    return with_fresh_head(make_teacher().base_model, 2, dropout=0.0, seed=seed)


def trainer_of(teacher, student, tmp_path, label=lambda word: word % 2):
    tokenizer = tiny_tokenizer()
    data = rows(32, label=label)
    encoded = Dataset.from_dict({**tokenizer(data["text"][:]), "labels": data["label"][:]})
    how = {
        "use_cpu": True,
        "report_to": "none",
        "per_device_train_batch_size": 8,
        **BESIDE_A_TEACHER,
        "teacher_dtype": "float32",
    }
    args, collator = HomoDistilTrainingArguments(str(tmp_path), **how), DataCollatorWithPadding(tokenizer)
    trainer = HomoDistilTrainer(student, args, teacher_model=teacher, train_dataset=encoded, data_collator=collator)
    return trainer, dict(collator([encoded[index] for index in range(8)]))


def loss_of(trainer, batch):
    return trainer.compute_loss(trainer.model, trainer.distillation.task.with_positions(batch))


def test_the_loss_by_hand(tmp_path):
    teacher, student = classifier(0), classifier(1)
    with torch.no_grad():
        student.bert.encoder.layer[0].output.dense.weight.mul_(-1)
    trainer, batch = trainer_of(teacher, student, tmp_path)
    read = {name: tensor for name, tensor in batch.items() if name != "labels"}
    outputs = [model(**read, output_hidden_states=True) for model in (trainer.model, teacher)]
    expected = F.cross_entropy(outputs[0].logits, batch["labels"])
    log_own, log_guide = (found.logits.log_softmax(-1) for found in outputs)
    expected = expected + (log_guide.exp() * (log_guide - log_own)).sum(-1).mean()
    is_token = batch["attention_mask"].bool()
    for layer, project in enumerate(trainer.model.projections.hidden, start=1):
        own, guide = (found.hidden_states[layer][is_token] for found in outputs)
        expected = expected + (guide - project(own)).square().mean()
    torch.testing.assert_close(loss_of(trainer, batch), expected)


@pytest.mark.parametrize(
    ("problem_type", "loss"),
    [
        ("regression", F.mse_loss),
        ("multi_label_classification", F.binary_cross_entropy_with_logits),
    ],
)
def test_beside_itself_a_model_of_several_values_has_its_own_loss_alone(problem_type, loss, tmp_path):
    settings = {"num_labels": 3, "problem_type": problem_type, **WITHOUT_DROPOUT}
    teacher, student = (make_teacher("sequence_classification", **settings) for _ in range(2))
    trainer, batch = trainer_of(teacher, student, tmp_path, label=lambda word: [word / 100] * 3)
    trainer.start_student()
    own = loss(student(**{k: v for k, v in batch.items() if k != "labels"}).logits, batch["labels"])
    torch.testing.assert_close(loss_of(trainer, batch), own, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        trainer.model.classifier.bias.add_(10)  # the same for all values, which a softmax would not see
    assert loss_of(trainer, batch) > own + 1


def test_no_states_of_earlier_batches_are_kept(tmp_path):
    counts, teacher = [], classifier(0)

    def count_tensors(*_):
        gc.collect()
        counts.append(sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects()))

    trainer, _ = trainer_of(teacher, classifier(1), tmp_path)
    trainer.distillation.teacher.exact.register_forward_pre_hook(count_tensors)
    trainer.start_student()
    assert len(counts) == 4
    assert max(counts[2:]) < counts[1] + 6  # a batch has three states of each model, and may have a mask


def test_pairs_are_read_without_segments_by_a_model_of_one(tmp_path):
    """As a RoBERTa-like model that was saved as a BERT beside BERT's tokenizer."""
    model = make_teacher("sequence_classification", type_vocab_size=1)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    evaluated = load_model(tmp_path / "model")
    assert "token_type_ids" in tiny_tokenizer()("w5", "w6")
    task = RowsTask(Columns(CLASSES, ("one", "other"), ("label",)), ("0", "1"))
    rows = Dataset.from_dict({"one": ["w5"], "other": ["w6 w7"], "label": [1]})
    rows = encoded_rows(task, rows, evaluated.tokenizer, 16)
    assert "token_type_ids" not in rows.column_names
    (outputs,) = forward(evaluated.model, rows.remove_columns(["labels", "length"]), evaluated.tokenizer)
    assert outputs["logits"].shape == (1, 2)
