"""Nomic BERT, GTE and Jina embeddings v3: BERT's order of norms, with rotary positions and heads of any size."""

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedConfig

from .architecture import HIDDEN, LABELS, NEURON, Architecture, Shapes, attention_of, embeddings, linear, norm
from .bert import POOLER, ROBERTA_HEADS, bert_heads

_ALL_LAYERS = "all"  # as in modeling_layerwise.py, which imports more than a plan needs
_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")


def gated_ffn(*, before: bool, after: bool) -> Shapes:
    """Return the parameters of an FFN with two matrices before its neurons; arguments say which have biases."""
    return {
        **linear("mlp.gate_proj", NEURON, HIDDEN, bias=before),
        **linear("mlp.up_proj", NEURON, HIDDEN, bias=before),
        **linear("mlp.down_proj", HIDDEN, NEURON, bias=after),
    }


def rotary_kinds(config: PreTrainedConfig) -> tuple[str, ...]:
    """Return the type of each layer, as layers of a type share their frequencies; empty if frequencies are scaled."""
    rope = config.rope_parameters
    is_plain = all(kind["rope_type"] == "default" for kind in ([rope] if "rope_type" in rope else rope.values()))
    return (_ALL_LAYERS,) * config.num_hidden_layers if is_plain else ()


ROTARY: dict[str, Any] = {
    "layers": "layers",
    "rotates": lambda config: False,
    "is_rotary": True,
    "takes_added_masks": False,
    "scores_have_positions": True,
}
"""What all architectures with rotary positions have."""
FREE_HEADS: dict[str, Any] = {
    **ROTARY,
    "has_free_heads": True,
    "rotary_kinds": rotary_kinds,
}
"""What those have whose stock classes have heads of any size."""


_NORMS = {**norm("post_attention_layernorm"), **norm("post_mlp_layernorm")}
_architecture: Callable[..., Architecture] = partial(
    Architecture, embeddings=embeddings("word", "token_type"), pooler=POOLER, **FREE_HEADS
)


NOMIC_BERT = _architecture(
    "Nomic BERT",
    "nomic_bert",
    "NomicBert",
    **bert_heads("nomic_bert", last_norm="layer_norm"),
    answers=None,
    layer={**attention_of(_ATTENTION, bias=False), **gated_ffn(before=False, after=False), **_NORMS},
)
GTE = _architecture(
    "GTE",
    "gte",
    "Gte",
    masked_lm={
        **linear("lm_head.dense", HIDDEN, HIDDEN),
        **norm("lm_head.layer_norm"),
        "lm_head.decoder.bias": ("vocab_size",),
    },
    untied={"lm_head.decoder.weight": ("vocab_size", HIDDEN)},
    classifier=linear("gte.pooler.dense", HIDDEN, HIDDEN) | LABELS,
    answers=None,
    layer={**attention_of(_ATTENTION), **gated_ffn(before=False, after=True), **_NORMS},
    absent=lambda config: () if config.type_vocab_size else ("embeddings.token_type_embeddings.weight",),
)
JINA_EMBEDDINGS_V3 = _architecture(
    "Jina embeddings v3",
    "jina_embeddings_v3",
    "JinaEmbeddingsV3",
    **ROBERTA_HEADS,
    layer={
        **attention_of(_ATTENTION),
        **linear("mlp.fc1", NEURON, HIDDEN),
        **linear("mlp.fc2", HIDDEN, NEURON),
        **_NORMS,
    },
)
