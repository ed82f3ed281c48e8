"""ModernBERT: LayerNorms come first, matrices are fused and gated, positions turn the channels of heads."""

from transformers import ModernBertConfig

from .architecture import (
    GATE,
    HIDDEN,
    LABELS,
    NEURON,
    QUERY_KEY_VALUE,
    VALUE,
    Architecture,
    biases,
    linear,
    norm,
)
from .rotary import ROTARY, rotary_kinds

_ATTENTION = {**linear("attn.Wqkv", QUERY_KEY_VALUE, HIDDEN), **linear("attn.Wo", HIDDEN, VALUE)}
_FFN = {**linear("mlp.Wi", GATE, HIDDEN), **linear("mlp.Wo", HIDDEN, NEURON)}
_NORMS = {**norm("attn_norm"), **norm("mlp_norm")}
_OUTER_NORMS = {**norm("embeddings.norm"), **norm("final_norm"), **norm("head.norm")}
_DENSE = linear("head.dense", HIDDEN, HIDDEN)
_HEAD = {**_DENSE, **norm("head.norm")}


def _rotary_kinds(config: ModernBertConfig) -> tuple[str, ...]:
    """Return the type of each layer, as layers of a type share their frequencies; empty if frequencies are scaled."""
    return tuple(config.layer_types) if rotary_kinds(config) else ()


def _absent(config: ModernBertConfig) -> set[str]:
    """Return the biases that a configuration switches off, kind by kind."""
    absent = set()
    for has_bias, shapes in (
        (config.attention_bias, _ATTENTION),
        (config.mlp_bias, _FFN),
        (config.norm_bias, {**_NORMS, **_OUTER_NORMS}),
        (config.classifier_bias, _DENSE),
        (config.decoder_bias, {"decoder.bias": ()}),
    ):
        absent |= set() if has_bias else biases(shapes)
    return absent


MODERNBERT = Architecture(
    name="ModernBERT",
    model_type="modernbert",
    stock="ModernBert",
    masked_lm={**_HEAD, "decoder.bias": ("vocab_size",)},
    untied={"decoder.weight": ("vocab_size", HIDDEN)},
    classifier=_HEAD | LABELS,
    labels=_HEAD | LABELS,
    answers=_HEAD | LABELS,
    embeddings={
        "embeddings.tok_embeddings.weight": ("vocab_size", HIDDEN),
        **norm("embeddings.norm"),
        **norm("final_norm"),
    },
    layer={**_ATTENTION, **_FFN, **_NORMS},
    absent=_absent,
    not_in_first_layer=norm("attn_norm"),
    width_names={"hidden_act": "hidden_activation"},
    dropouts=("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"),
    rotary_kinds=_rotary_kinds,
    is_pre_norm=True,
    keeps_first_layer=lambda config: True,  # it has no LayerNorm in front of its attention
    **ROTARY,
)
