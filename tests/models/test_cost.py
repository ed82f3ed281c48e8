import pytest
import torch
from rows import each
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from homodistil_hf.models.cost import count_parameters, encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of

TINY = BertConfig(
    vocab_size=101,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=17,
)
CONFIGS = {
    "tiny": TINY,
    "five labels": BertConfig(**{**TINY.to_diff_dict(), "num_labels": 5}),
    "one token type": BertConfig(**{**TINY.to_diff_dict(), "type_vocab_size": 1, "num_hidden_layers": 1}),
    "untied": BertConfig(**{**TINY.to_diff_dict(), "tie_word_embeddings": False}),
    "base": BertConfig(),
    "large": BertConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096),
}
HEADS = {
    "masked_lm": BertForMaskedLM,
    "sequence_classification": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
}


def num_model_parameters(model_class: type, config: BertConfig, **kwargs: bool) -> int:
    with torch.device("meta"):
        model = model_class(config, **kwargs)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


# Formulas


@pytest.mark.slow
@each("config", CONFIGS.values())
@each("head", HEADS)
def test_parameters_equal_those_of_the_stock_model(config, head):
    assert count_parameters(widths_of(config), config, head=head) == num_model_parameters(HEADS[head], config)


def test_encoder_macs_by_hand():
    plan = WidthPlan(10, (LayerWidths(2, 3, 7), LayerWidths(1, 4, 5)))
    first = 3 * 10 * 6 + 6 * 10 + 2 * 10 * 7 + 2 * 8 * 6
    second = 3 * 10 * 4 + 4 * 10 + 2 * 10 * 5 + 2 * 8 * 4
    assert encoder_macs(plan, sequence_length=8) == first + second
    assert encoder_macs(plan) == encoder_macs(plan, sequence_length=128)


@pytest.mark.parametrize("sequence_length", [1, 5, 16])
def test_encoder_macs_equal_those_that_torch_counts(sequence_length):
    encoder = BertModel(TINY, add_pooling_layer=False)
    encoder.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(input_ids=torch.zeros(3, sequence_length, dtype=torch.long))
    num_tokens = 3 * sequence_length
    assert counter.get_total_flops() == 2 * num_tokens * encoder_macs(widths_of(TINY), sequence_length)


def test_uneven_widths_cost_more_padded_than_compact():
    plan = WidthPlan(24, (LayerWidths(3, 8, 40), LayerWidths(1, 8, 16)))
    assert count_parameters(plan.padded(), TINY) == count_parameters(widths_of(TINY), TINY)
    # The second layer's attention grows from 8 to 24 channels and its FFN from 16 to 40 neurons.
    more_parameters = count_parameters(plan.padded(), TINY) - count_parameters(plan, TINY)
    assert more_parameters == 16 * (4 * 24 + 3) + 24 * (2 * 24 + 1)
    assert encoder_macs(plan.padded()) - encoder_macs(plan) == 16 * (4 * 24 + 2 * 128) + 24 * 2 * 24
