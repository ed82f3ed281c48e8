"""Fine-tuning of every architecture but BERT: fresh heads around an encoder, alone and beside a teacher."""

import pytest
import torch
from students import logits_of, make_batch
from tiny_architectures import of_every_architecture, tiny_architecture_config, tiny_architecture_teacher
from tiny_models import make_teacher, tiny_tokenizer
from torch import nn

from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments
from homodistil_hf.models.architectures.architecture import QUESTION_ANSWERING
from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.heads import forward, head_linears, start_at_mean, with_fresh_head
from homodistil_hf.models.tokenizers import as_heads_read
from homodistil_hf.training.small_start import BESIDE_A_TEACHER

ROWS = [{name: tensor[row] for name, tensor in make_batch("sequence_classification").items()} for row in range(4)]


def encoder_of(architecture):
    return tiny_architecture_teacher(architecture, architecture.heads[0]).base_model


@of_every_architecture
def test_padding_that_a_head_reads_in_front_of_has_one_id(architecture):
    reads = architecture.model_type in ("llama", "mistral", "qwen3", "gemma3_text")
    config, other = tiny_architecture_config(architecture, pad_token_id=0), tiny_tokenizer()
    other.pad_token = "[UNK]"
    if not reads:
        as_heads_read(other, config)
        return
    with pytest.raises(ValueError, match="tokenizer has pad_token_id=1, but the model's pad_token_id=0; use the"):
        as_heads_read(other, config)
    as_heads_read(tiny_tokenizer(), config)
    config.architectures = [f"{architecture.stock}ForTokenClassification"]  # it reads all tokens
    as_heads_read(other, config)
    model = with_fresh_head(encoder_of(architecture), 2, dropout=0.0, seed=0)
    stock = to_stock(model) if isinstance(model, LayerwiseModel) else model
    stock.config.pad_token_id = None
    with pytest.raises(ValueError, match="has pad_token_id=null in config.json, but reads a text's class in front of"):
        to_student(stock)


@pytest.mark.slow
@of_every_architecture
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_fresh_classifier_is_drawn_from_its_seed_and_drops_what_it_is_told(architecture, dropout):
    one, same, other = (with_fresh_head(encoder_of(architecture), 3, dropout=dropout, seed=seed) for seed in (1, 1, 2))
    inputs = make_batch("sequence_classification")
    assert torch.equal(logits_of(one.eval(), inputs), logits_of(same.eval(), inputs))
    assert not torch.equal(logits_of(one, inputs), logits_of(other.eval(), inputs))
    assert {module.p for module in one.modules() if isinstance(module, nn.Dropout)} <= {dropout}
    assert head_linears(one)[-1].out_features == 3


@of_every_architecture
def test_a_regression_begins_with_the_mean(architecture):
    model = with_fresh_head(encoder_of(architecture), 1, dropout=0.0, seed=0)
    start_at_mean(model, [2.0, 4.0])
    bias = head_linears(model)[-1].bias
    assert bias is None if "score.weight" in architecture.heads[0].shapes else bias.tolist() == [3.0]


@of_every_architecture
def test_a_fresh_answerer_marks_starts_and_ends(architecture):
    if QUESTION_ANSWERING not in [head.kind for head in architecture.heads]:
        with pytest.raises(
            ValueError, match=f"transformers has no AutoModelForQuestionAnswering of a {architecture.model_type}"
        ):
            with_fresh_head(encoder_of(architecture), 2, QUESTION_ANSWERING, dropout=0.0, seed=0)
        return
    model, inputs = (
        with_fresh_head(encoder_of(architecture), 2, QUESTION_ANSWERING, dropout=0.0, seed=0),
        make_batch("question_answering"),
    )
    with torch.no_grad():
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    assert outputs.start_logits.shape == outputs.end_logits.shape == inputs["input_ids"].shape


@pytest.mark.slow
@of_every_architecture
def test_a_teacher_of_the_same_weights_adds_nothing_but_the_task(architecture, tmp_path):
    model, teacher = (with_fresh_head(encoder_of(architecture), 2, dropout=0.0, seed=0) for _ in range(2))
    how = {"report_to": "none", "use_cpu": True, "per_device_train_batch_size": 4, **BESIDE_A_TEACHER}
    trainer = HomoDistilTrainer(
        model,
        HomoDistilTrainingArguments(str(tmp_path), **how),
        teacher_model=teacher,
        train_dataset=ROWS,
        data_collator=stacked,
    )
    trainer.start_student()
    batch = trainer.distillation.task.with_positions(stacked(ROWS))
    with torch.no_grad():
        alone = nn.functional.cross_entropy(
            teacher(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits, batch["labels"]
        )
        torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), alone, rtol=1e-3, atol=1e-3)


def stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("positions", [34, 32])
def test_padded_lengths_stay_within_the_positions(positions, tokenizer):
    """Stock models fail by an index error on a batch that was padded beyond them."""
    model = make_teacher("sequence_classification", max_position_embeddings=positions)
    rows = [{"input_ids": list(range(5, 5 + length))} for length in (3, positions - 1, positions)]
    (outputs,) = forward(model, rows, tokenizer)
    assert outputs["logits"].shape == (3, 2)
