"""MPNet: all layers add a table of distances to their scores, with a column for each head."""

from .architecture import HEAD, Architecture, embeddings, layer_of
from .bert import FFN, POOLER, ROBERTA_HEADS

_ATTENTION = ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o")

MPNET = Architecture(
    name="MPNet",
    model_type="mpnet",
    stock="MPNet",
    **ROBERTA_HEADS,
    embeddings={
        **embeddings("word", "position"),
        "encoder.relative_attention_bias.weight": ("relative_attention_num_buckets", HEAD),
    },
    layer=layer_of(_ATTENTION, FFN, ("attention.LayerNorm", "output.LayerNorm")),
    layers="encoder.layer",
    pooler=POOLER,
    first_position=lambda config: 2,
    scores_have_positions=True,
)
