"""Tiny real models with noise everywhere, a word-level vocabulary, blocks of tokens. Nothing is downloaded."""

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

VOCAB_SIZE = 96
SEQUENCE_LENGTH = 16
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
    values = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }
    return BertConfig(**values | overrides)


def randomized(model: PreTrainedModel, *, std: float = 0.1, seed: int = 0) -> PreTrainedModel:
    """Noise on every parameter, biases and LayerNorms included, so that a forgotten slice shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * std)
    return model.eval()


def make_teacher(task: str = "masked_lm", **config: Any) -> PreTrainedModel:
    """A stock teacher with noise on every parameter."""
    torch.manual_seed(1)
    return randomized(TEACHER_CLASSES[task](tiny_config(**config)))


def make_blocks(num_blocks: int = 64, *, seed: int = 0) -> Dataset:
    """Blocks of random words with [CLS] and [SEP], as `tokenize_to_blocks` gives them."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(5, VOCAB_SIZE, (num_blocks, SEQUENCE_LENGTH - 2), generator=generator).tolist()
    return Dataset.from_dict({"input_ids": [[2, *row, 3] for row in words], "example_id": list(range(num_blocks))})
