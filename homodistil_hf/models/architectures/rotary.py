"""Nomic BERT, GTE and Jina embeddings v3: BERT's order of norms, with rotary positions and heads of any size."""

from typing import Any

from transformers import PreTrainedConfig

from .architecture import ANSWERS, HIDDEN, LABELS, NEURON, QUERY, VALUE, Architecture, Shapes, heads, linear, norm
from .roberta import CLASSIFIER, MLM_SHAPES, UNTIED

_ALL_LAYERS = "all"  # as in modeling_layerwise.py, which imports more than a plan needs
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
_EMBEDDINGS = {
    "embeddings.word_embeddings.weight": ("vocab_size", HIDDEN),
    "embeddings.token_type_embeddings.weight": ("type_vocab_size", HIDDEN),
    **norm("embeddings.LayerNorm"),
}


def _layer(*, has_biases: bool, ffn: Shapes) -> Shapes:
    query, key, value, output = ATTENTION
    return {
        **linear(query, QUERY, HIDDEN, bias=has_biases),
        **linear(key, QUERY, HIDDEN, bias=has_biases),
        **linear(value, VALUE, HIDDEN, bias=has_biases),
        **linear(output, HIDDEN, VALUE, bias=has_biases),
        **ffn,
        **norm("post_attention_layernorm"),
        **norm("post_mlp_layernorm"),
    }


def _gated(*, has_bias: bool) -> Shapes:
    return {
        **linear("mlp.gate_proj", NEURON, HIDDEN, bias=False),
        **linear("mlp.up_proj", NEURON, HIDDEN, bias=False),
        **linear("mlp.down_proj", HIDDEN, NEURON, bias=has_bias),
    }


def rotary_kinds(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the type of each layer, as layers of a type share their frequencies; empty if frequencies are scaled."""
    rope = config.rope_parameters
    is_plain = all(kind["rope_type"] == "default" for kind in ([rope] if "rope_type" in rope else rope.values()))
    return (_ALL_LAYERS,) * config.num_hidden_layers if is_plain else ()


def _architecture(title: str, model_type: str, name: str, *, prefix: str, **more: Any) -> Architecture:
    """Return an architecture; `more` are heads, layer and what only it has."""
    return Architecture(
        name=title,
        model_type=model_type,
        prefix=prefix,
        encoder_name=f"{name}Model",
        embeddings=_EMBEDDINGS,
        layers="layers",
        attention=ATTENTION,
        pooler=linear("pooler.dense", HIDDEN, HIDDEN),
        surplus=(f"{prefix}.pooler.",),
        rotates=lambda config: False,
        is_rotary=True,
        has_free_heads=True,
        rotary_kinds=rotary_kinds,
        takes_added_masks=False,
        scores_have_positions=True,
        **more,
    )


_NOMIC = f"{__package__}.modeling_homonomic_bert"
NOMIC_BERT = _architecture(
    "Nomic BERT",
    "nomic_bert",
    "NomicBert",
    prefix="nomic_bert",
    modeling=_NOMIC,
    heads=heads(
        "NomicBert",
        _NOMIC,
        masked_lm={
            **linear("cls.predictions.transform.dense", HIDDEN, HIDDEN),
            **norm("cls.predictions.transform.layer_norm"),
            "cls.predictions.bias": ("vocab_size",),
        },
        untied=linear("cls.predictions.decoder", "vocab_size", HIDDEN),
        classifier=linear("nomic_bert.pooler.dense", HIDDEN, HIDDEN) | LABELS,
        answers=None,
    ),
    layer=_layer(has_biases=False, ffn=_gated(has_bias=False)),
    mlm_entries=("cls.predictions.transform",),
    is_gated=True,
)

_GTE = f"{__package__}.modeling_homogte"
GTE = _architecture(
    "GTE",
    "gte",
    "Gte",
    prefix="gte",
    modeling=_GTE,
    heads=heads(
        "Gte",
        _GTE,
        masked_lm={
            **linear("lm_head.dense", HIDDEN, HIDDEN),
            **norm("lm_head.layer_norm"),
            "lm_head.decoder.bias": ("vocab_size",),
        },
        untied={"lm_head.decoder.weight": ("vocab_size", HIDDEN)},
        classifier=linear("gte.pooler.dense", HIDDEN, HIDDEN) | LABELS,
        answers=None,
    ),
    layer=_layer(has_biases=True, ffn=_gated(has_bias=True)),
    mlm_entries=("lm_head.dense",),
    is_gated=True,
    absent=lambda config: () if config.type_vocab_size else ("embeddings.token_type_embeddings.weight",),
)

_JINA = f"{__package__}.modeling_homojina_embeddings_v3"
JINA_EMBEDDINGS_V3 = _architecture(
    "Jina embeddings v3",
    "jina_embeddings_v3",
    "JinaEmbeddingsV3",
    prefix="roberta",
    modeling=_JINA,
    heads=heads(
        "JinaEmbeddingsV3", _JINA, masked_lm=MLM_SHAPES, untied=UNTIED, classifier=CLASSIFIER, answers=ANSWERS
    ),
    layer=_layer(has_biases=True, ffn={**linear("mlp.fc1", NEURON, HIDDEN), **linear("mlp.fc2", HIDDEN, NEURON)}),
    mlm_entries=("lm_head.dense",),
)
