"""MPNet: all layers add a table of distances to their scores, with a column for each head."""

from .architecture import HEAD, HIDDEN, Architecture, heads, layer_of, linear, norm
from .bert import FFN
from .roberta import CLASSIFIER, MLM_SHAPES, UNTIED

_MODELING = f"{__package__}.modeling_homompnet"
_ATTENTION = ("attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o")

MPNET = Architecture(
    name="MPNet",
    model_type="mpnet",
    modeling=_MODELING,
    prefix="mpnet",
    encoder_name="MPNetModel",
    heads=heads("MPNet", _MODELING, masked_lm=MLM_SHAPES, untied=UNTIED, classifier=CLASSIFIER),
    embeddings={
        "embeddings.word_embeddings.weight": ("vocab_size", HIDDEN),
        "embeddings.position_embeddings.weight": ("max_position_embeddings", HIDDEN),
        **norm("embeddings.LayerNorm"),
        "encoder.relative_attention_bias.weight": ("relative_attention_num_buckets", HEAD),
    },
    layer=layer_of(_ATTENTION, FFN, ("attention.LayerNorm", "output.LayerNorm")),
    layers="encoder.layer",
    attention=_ATTENTION,
    mlm_entries=("lm_head.dense",),
    pooler=linear("pooler.dense", HIDDEN, HIDDEN),
    surplus=("mpnet.pooler.",),
    shares_heads=True,
    first_position=lambda config: 2,
    scores_have_positions=True,
)
