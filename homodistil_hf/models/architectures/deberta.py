"""DeBERTa-v2 and v3: distances are embedded, and projected by the matrices of queries and keys or by their own."""

from transformers import DebertaV2Config

from .architecture import EMBEDDING, HIDDEN, LABELS, QUERY, Architecture, embeddings, layer_of, linear, norm
from .bert import FFN, NORMS

_DISTANCES, _KERNEL = "num_distances", "conv_kernel_size"
_ATTENTION = (
    *("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"),
    "attention.output.dense",
)

_LEGACY_HEAD = {
    **linear("cls.predictions.transform.dense", EMBEDDING, HIDDEN),
    **norm("cls.predictions.transform.LayerNorm", EMBEDDING),
    "cls.predictions.bias": ("vocab_size",),
}
_HEAD = {
    **linear("lm_predictions.lm_head.dense", HIDDEN, HIDDEN),
    **norm("lm_predictions.lm_head.LayerNorm"),
    "lm_predictions.lm_head.bias": ("vocab_size",),
}
_UNTIED = linear("cls.predictions.decoder", "vocab_size", EMBEDDING)
_PROJECTION = "embeddings.embed_proj.weight"
_CONVOLUTION = {
    "encoder.conv.conv.weight": (HIDDEN, HIDDEN, _KERNEL),
    "encoder.conv.conv.bias": (HIDDEN,),
    **norm("encoder.conv.LayerNorm"),
}
_OWN = {
    kind: linear(f"attention.self.pos_{name}_proj", QUERY, HIDDEN) for kind, name in (("c2p", "key"), ("p2c", "query"))
}
"""Kind of a score with distances → their own projection, where they don't share that of queries and keys."""


def _num_distances(config: DebertaV2Config) -> int:
    # rows for both directions, of buckets of distances or of single ones
    farthest = config.max_relative_positions if config.max_relative_positions > 0 else config.max_position_embeddings
    buckets = getattr(config, "position_buckets", -1)
    return 2 * (buckets if buckets > 0 else farthest)


def _shares_projections(config: DebertaV2Config) -> bool:
    return getattr(config, "share_att_key", False) or not config.relative_attention


def _has_convolution(config: DebertaV2Config) -> bool:
    return getattr(config, _KERNEL, 0) > 0


def _absent(config: DebertaV2Config) -> set[str]:
    absent = set(_HEAD if config.legacy else {**_LEGACY_HEAD, **_UNTIED})
    if getattr(config, "embedding_size", config.hidden_size) == config.hidden_size:
        absent.add(_PROJECTION)
    if not config.position_biased_input:
        absent.add("embeddings.position_embeddings.weight")
    if not config.relative_attention:
        absent.add("encoder.rel_embeddings.weight")
    if "layer_norm" not in getattr(config, "norm_rel_ebd", "none"):
        absent |= norm("encoder.LayerNorm").keys()
    if not _has_convolution(config):
        absent |= _CONVOLUTION.keys()
    for kind, projection in _OWN.items():
        if _shares_projections(config) or kind not in (config.pos_att_type or ()):
            absent |= projection.keys()
    return absent


DEBERTA = Architecture(
    name="DeBERTa",
    model_type="deberta-v2",
    stock="DebertaV2",
    file="debertav2",
    masked_lm={**_LEGACY_HEAD, **_HEAD},
    untied=_UNTIED,
    classifier=linear("pooler.dense", HIDDEN, HIDDEN) | LABELS,
    embeddings={
        **embeddings("word", "position", "token_type", channels=EMBEDDING),
        _PROJECTION: (HIDDEN, EMBEDDING),
        **norm("embeddings.LayerNorm"),
        "encoder.rel_embeddings.weight": (_DISTANCES, HIDDEN),
        **norm("encoder.LayerNorm"),
        **_CONVOLUTION,
    },
    layer={**layer_of(_ATTENTION, FFN, NORMS), **_OWN["c2p"], **_OWN["p2c"]},
    layers="encoder.layer",
    absent=_absent,
    sizes={_DISTANCES: _num_distances},
    rotates=_shares_projections,
    dropouts=("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout"),
    takes_added_masks=False,
    keeps_first_layer=_has_convolution,  # its output is added to that of the first layer
    scores_have_positions=True,
)
