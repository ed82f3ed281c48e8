"""EuroBERT; Llama, Mistral, Qwen3, Gemma as encoders: RMSNorms come first, queries may share keys, FFNs are gated."""

from collections.abc import Callable
from functools import partial

from transformers import PreTrainedConfig

from .architecture import (
    ATTENDED,
    HEAD_CHANNEL,
    HIDDEN,
    KEY,
    LABELS,
    QUERY,
    VALUE,
    Architecture,
    biases,
    linear,
)
from .rotary import FREE_HEADS, gated_ffn

_FFN = gated_ffn(before=True, after=True)
_LINEARS = {
    **linear("self_attn.q_proj", QUERY, HIDDEN),
    **linear("self_attn.k_proj", KEY, HIDDEN),
    **linear("self_attn.v_proj", VALUE, HIDDEN),
    **linear("self_attn.o_proj", HIDDEN, ATTENDED),
}
_LAYER = {
    **_LINEARS,
    **_FFN,
    "input_layernorm.weight": (HIDDEN,),
    "post_attention_layernorm.weight": (HIDDEN,),
}
_HEAD_NORMS = {f"self_attn.{name}_norm.weight": (HEAD_CHANNEL,) for name in "qk"}


def _absent(config: PreTrainedConfig) -> set[str]:
    """Return the biases that a configuration switches off; one without a switch has none."""
    absent = set() if getattr(config, "attention_bias", False) else biases(_LINEARS)
    return absent | (set() if getattr(config, "mlp_bias", False) else biases(_FFN) | {"lm_head.bias"})


# heads are those of transformers' decoders that fit
_architecture: Callable[..., Architecture] = partial(
    Architecture,
    masked_lm=None,
    classifier=linear("score", "num_labels", HIDDEN, bias=False),
    labels=linear("score", "num_labels", HIDDEN),
    answers=None,
    embeddings={"embed_tokens.weight": ("vocab_size", HIDDEN), "norm.weight": (HIDDEN,)},
    layer=_LAYER,
    absent=_absent,
    queries_per_key=lambda config: config.num_attention_heads // config.num_key_value_heads,
    is_pre_norm=True,
    reads_before_padding=True,
    dropouts=("attention_dropout",),
    **FREE_HEADS,
)


EUROBERT = _architecture(
    "EuroBERT",
    "eurobert",
    "EuroBert",
    masked_lm={"lm_head.bias": ("vocab_size",)},
    untied={"lm_head.weight": ("vocab_size", HIDDEN)},
    classifier=linear("dense", HIDDEN, HIDDEN) | LABELS,
    labels=LABELS,
    reads_before_padding=False,
    heads_divide=True,
)
LLAMA = _architecture("Llama", "llama", "Llama", heads_divide=True)
MISTRAL = _architecture("Mistral", "mistral", "Mistral", file="llama")
QWEN3 = _architecture("Qwen3", "qwen3", "Qwen3", layer={**_LAYER, **_HEAD_NORMS})
GEMMA3_TEXT = _architecture(
    "Gemma 3",
    "gemma3_text",
    "Gemma3Text",
    labels=None,
    layer={
        **_LAYER,
        **_HEAD_NORMS,
        "pre_feedforward_layernorm.weight": (HIDDEN,),
        "post_feedforward_layernorm.weight": (HIDDEN,),
    },
    width_names={"hidden_act": "hidden_activation"},
    heads_divide=True,
)
