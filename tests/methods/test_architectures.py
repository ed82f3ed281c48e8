"""Every method with every architecture but BERT: it trains, or says before it begins why it can't."""

import pytest
import torch
from run_traces import logs_of
from students import make_batch
from tiny_architectures import (
    masked_lm_teacher,
    of_every_architecture,
    of_every_masked_lm,
    tiny_architecture_config,
    tiny_architecture_teacher,
)

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.architecture import QUERY_KEY_VALUE
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import widths_of
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.runs.kinds import KINDS, METHODS, trainer_named

WITH_ATTENTION = ("tinybert", "minilm", "minilm_v2")
OTHER_METHODS = sorted(METHODS.keys() - KINDS.keys() - {"homodistil", "distilbert"})


@pytest.mark.slow
@of_every_masked_lm
@pytest.mark.parametrize("method", OTHER_METHODS)
def test_a_method_trains_or_is_refused(make_trainer, architecture, method):
    head_dim = 8 if method not in WITH_ATTENTION else 4
    heads = 2 if method not in WITH_ATTENTION else 4
    student = {"hidden_size": 16, "num_attention_heads": heads, "head_dim": head_dim, "intermediate_size": 32}

    def run():
        trainer = make_trainer(
            model=masked_lm_teacher(architecture), trainer_class=trainer_named(method), max_steps=2, student=student
        )
        trainer.train()
        return trainer

    has_one_matrix = any(QUERY_KEY_VALUE in dims for dims in architecture.layer.values())
    is_grouped = architecture.queries_per_key(tiny_architecture_config(architecture)) > 1
    if method in WITH_ATTENTION and (has_one_matrix or is_grouped):
        with pytest.raises(
            ValueError, match="cannot be split into|one matrix|a key for every 2 queries|adds positions"
        ):
            run()
        return
    if method in ("tinybert", "minilm") and architecture.scores_have_positions:
        with pytest.raises(ValueError, match=f"(attention_weight|method)=.*but a {architecture.model_type} adds pos"):
            run()
        return
    losses = [entry["loss"] for entry in logs_of(run()) if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < float("inf") for loss in losses)


@of_every_architecture
def test_filters_are_pruned_without_gradients(architecture):
    from homodistil_hf import prune_gradient_free

    (head,) = (head for head in architecture.heads if head.kind.name == "sequence_classification")
    model, batch = tiny_architecture_teacher(architecture, head), make_batch("sequence_classification")
    unlabeled = {name: batch[name] for name in ("input_ids", "attention_mask")}
    unlabeled["token_type_ids"] = torch.ones_like(batch["input_ids"])  # dropped where it has no segments
    pruned = prune_gradient_free(model, [unlabeled], macs=0.85)
    share = encoder_macs(widths_of(pruned.config)) / encoder_macs(widths_of(model.config))
    assert share == pytest.approx(0.85, abs=0.02)
    assert type(pruned) is head.student


@of_every_masked_lm
def test_masked_words_are_predicted_by_the_stock_class(architecture):
    from homodistil_hf.methods.self_distillation.trainer import MaskedWords

    teacher, batch = masked_lm_teacher(architecture), make_batch()
    with torch.no_grad():
        found = MaskedWords(teacher).loss_sum(teacher, teacher, batch)
        logits = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    torch.testing.assert_close(found, expected)


@of_every_architecture
def test_layers_of_bits_are_those_of_bert(architecture):
    from homodistil_hf import to_binary

    (head,) = (head for head in architecture.heads if head.kind.name == "sequence_classification")
    with pytest.raises(ValueError, match="is no BERT, and layers of bits are BERT's; take a BERT"):
        to_binary(tiny_architecture_teacher(architecture, head), activation_bits=1)


@of_every_architecture
@pytest.mark.parametrize("budget", ["macs=0.5", "params=0.6", "compact_macs=0.5"])
def test_a_budget_is_met_by_what_the_architecture_can_hold(architecture, budget):
    teacher = tiny_architecture_teacher(architecture, architecture.heads[0])
    if budget.startswith("params"):
        budget = f"params={int(0.6 * sum(value.numel() for value in teacher.base_model.parameters()))}"
    plan = resolve_plan(budget, teacher.config, multiple=4)
    assert (plan.embedding_size is None) == (architecture.embedding_size(teacher.config) is None)
    if architecture.has_free_heads:
        assert plan.padded() == plan  # also of heads that don't fill the hidden size
    elif architecture.is_rotary:
        # the compact form may leave rotary pairs out
        assert {layer.head_dim for layer in plan.layers} <= {8, *([4] if "compact" in budget else [])}
    assert plan.padded().hidden_size == plan.hidden_size


def test_attention_is_narrower_than_the_hidden_size_where_the_stock_class_holds_that():
    config = ARCHITECTURES["nomic_bert"].config.stock()
    for budget in ("macs=0.5", "macs=0.25", "macs=0.125"):
        plan = resolve_plan(budget, config)
        assert plan.is_stock
        assert plan.widest.attention_size < plan.hidden_size


def test_fresh_weights_have_no_rotary_pairs_to_choose_among(make_trainer):
    student = {"hidden_size": 16, "num_attention_heads": 2, "head_dim": 4, "intermediate_size": 32}
    teacher = masked_lm_teacher(ARCHITECTURES["modernbert"])
    with pytest.raises(ValueError, match="head_dim=4, but fresh weights have no rotary positions .* valid: 8"):
        make_trainer(model=teacher, trainer_class=trainer_named("scratch"), student=student)
