"""Widths that every method of masked words can give a student of the tiny teacher."""

SAME_HEADS = {"hidden_size": 16, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
"""With the heads of the tiny teacher."""
HALF_THE_MACS = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}


def student_of(method: str) -> dict[str, int]:
    return HALF_THE_MACS if method == "distilbert" else SAME_HEADS  # it takes whole layers
