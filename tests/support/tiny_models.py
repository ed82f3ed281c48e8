"""Tiny real models with noise everywhere, a word-level vocabulary, blocks of tokens. Nothing is downloaded."""

from functools import cache
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertTokenizer,
    PreTrainedModel,
)

from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig
from homodistil_hf.models.resizing import write_plan
from homodistil_hf.models.widths import LayerWidths, WidthPlan

VOCAB_SIZE = 96
SEQUENCE_LENGTH = 16
NUM_LAYERS = 2
_SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
SOFTMAX_HEAD_DIM = 11
# Widths that stock BERT can hold, padded.
UNIFORM = WidthPlan.uniform(24, NUM_LAYERS, LayerWidths(3, 8, 16))
UNEVEN = WidthPlan(24, (LayerWidths(3, 5, 16), LayerWidths(2, 8, 9)))
GRADUAL = {"pruning_end_fraction": 0.3, "pruning_interval_steps": 2, "num_scoring_batches": 0}
"""Settings of a run that prunes a few units at a time, scored at every step, as the paper does."""
WIDE_WINDOW = GRADUAL | {"pruning_end_fraction": 0.9, "pruning_interval_steps": 1, "width_multiple": 1}
"""The same nearly to the end of a run, one unit at a time."""
TEACHER_CLASSES = {
    "masked_lm": BertForMaskedLM,
    "sequence_classification": BertForSequenceClassification,
    "token_classification": BertForTokenClassification,
    "question_answering": BertForQuestionAnswering,
}


def tiny_tokenizer() -> BertTokenizer:
    """One token a word: five special ones and w5 … w95."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(5, VOCAB_SIZE)]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


def tiny_config(**overrides: Any) -> BertConfig:
    """2 layers × 32 hidden, 4 heads × 8, FFN 64."""
    return BertConfig(**_SHAPE | overrides)


def randomized(model: PreTrainedModel, *, std: float = 0.1, seed: int = 0) -> PreTrainedModel:
    """Noise on every parameter, biases and LayerNorms included, so that a forgotten slice shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * std)
    return model.eval()


def make_teacher(task: str | type[PreTrainedModel] = "masked_lm", **config: Any) -> PreTrainedModel:
    """A stock teacher with noise on every parameter; `task` may be a class instead."""
    torch.manual_seed(1)
    return randomized(TEACHER_CLASSES.get(task, task)(tiny_config(**config)))


def random_student(student_class: type[PreTrainedModel], plan: WidthPlan = UNEVEN, **config: Any) -> PreTrainedModel:
    """A student of any widths without projections, noise on every parameter."""
    values = {"num_hidden_layers": len(plan.layers), "softmax_head_dim": SOFTMAX_HEAD_DIM}
    student_config = HomoBertConfig(**_SHAPE | values | config)
    write_plan(student_config, plan)
    torch.manual_seed(1)
    return randomized(student_class(student_config))


@cache
def make_blocks(num_blocks: int = 64, *, seed: int = 0) -> Dataset:
    """Blocks of random words with [CLS] and [SEP], as `tokenize_to_blocks` gives them."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, VOCAB_SIZE, (num_blocks, SEQUENCE_LENGTH - 2), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": [[2, *row, 3] for row in words], "example_id": list(range(num_blocks))})
