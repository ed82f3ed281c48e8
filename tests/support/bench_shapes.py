"""A tiny model and a tiny benchmark."""

import json

SHAPE = {
    "vocab_size": 120,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}


TINY = {
    "shape": json.dumps(SHAPE),
    "batch_size": 4,
    "length": 16,
    "rounds": 2,
    "warmup_rounds": 1,
    "points": 3,
    "max_steps": 100,
    "multiple": 1,
}
