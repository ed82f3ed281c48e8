"""EuroBERT; Llama, Mistral, Qwen3, Gemma as encoders: RMSNorms come first, queries may share keys, FFNs are gated."""

from typing import Any

from transformers import PreTrainedConfig

from .architecture import (
    ATTENDED,
    HEAD_CHANNEL,
    HIDDEN,
    KEY,
    LABELS,
    NEURON,
    QUERY,
    VALUE,
    Architecture,
    Head,
    Shapes,
    biases,
    heads,
    linear,
)
from .rotary import ATTENTION, rotary_kinds

_LINEARS = {
    **linear(ATTENTION[0], QUERY, HIDDEN),
    **linear(ATTENTION[1], KEY, HIDDEN),
    **linear(ATTENTION[2], VALUE, HIDDEN),
    **linear(ATTENTION[3], HIDDEN, ATTENDED),
}
_FFN = {
    **linear("mlp.gate_proj", NEURON, HIDDEN),
    **linear("mlp.up_proj", NEURON, HIDDEN),
    **linear("mlp.down_proj", HIDDEN, NEURON),
}
_HEAD_NORMS = {f"self_attn.{name}_norm.weight": (HEAD_CHANNEL,) for name in "qk"}
_LABELS = linear("score", "num_labels", HIDDEN)
_REMEDY = "it is a decoder: train it as {}ForSequenceClassification first, or take an embedding model"
_NORMS = {"input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,)}


def _absent(config: PreTrainedConfig) -> set[str]:
    """Return the biases that a configuration switches off; one without a switch has none."""
    absent = set() if getattr(config, "attention_bias", False) else biases(_LINEARS)
    return absent | (set() if getattr(config, "mlp_bias", False) else biases(_FFN) | {"lm_head.bias"})


def _queries_per_key(config: PreTrainedConfig) -> int:
    return config.num_attention_heads // config.num_key_value_heads


def _architecture(title: str, model_type: str, name: str, **more: Any) -> Architecture:
    """Return an architecture; `more` is what only it has."""
    modeling = f"{__package__}.modeling_homo{model_type}"
    return Architecture(
        name=title,
        model_type=model_type,
        modeling=modeling,
        prefix="model",
        encoder_name=f"{name}Model",
        **{
            "heads": _scores(name, modeling),
            "refused": {f"{name}ForCausalLM": _REMEDY.format(name)},
            "layer": {**_LINEARS, **_FFN, **_NORMS},
            "mlm_entries": (),
            **more,
        },
        embeddings={"embed_tokens.weight": ("vocab_size", HIDDEN), "norm.weight": (HIDDEN,)},
        layers="layers",
        attention=ATTENTION,
        surplus=("lm_head.",),
        absent=_absent,
        rotates=lambda config: False,
        is_rotary=True,
        has_free_heads=True,
        queries_per_key=_queries_per_key,
        rotary_kinds=rotary_kinds,
        is_gated=True,
        is_pre_norm=True,
        takes_added_masks=False,
        scores_have_positions=True,
        dropouts=("attention_dropout",),
    )


def _scores(name: str, modeling: str, *, labels: Shapes | None = _LABELS) -> tuple[Head, ...]:
    """Return the heads of transformers' decoders that fit encoders."""
    return heads(
        name,
        modeling,
        masked_lm=None,
        untied={},
        classifier=linear("score", "num_labels", HIDDEN, bias=False),
        labels=labels,
        answers=None,
    )


EUROBERT = _architecture(
    "EuroBERT",
    "eurobert",
    "EuroBert",
    heads=heads(
        "EuroBert",
        f"{__package__}.modeling_homoeurobert",
        masked_lm={"lm_head.bias": ("vocab_size",)},
        untied={"lm_head.weight": ("vocab_size", HIDDEN)},
        classifier=linear("dense", HIDDEN, HIDDEN) | LABELS,
        answers=None,
    ),
    refused={},
    mlm_entries=("lm_head",),
    heads_divide=True,
)
LLAMA = _architecture("Llama", "llama", "Llama", heads_divide=True)
MISTRAL = _architecture("Mistral", "mistral", "Mistral")
QWEN3 = _architecture(
    "Qwen3",
    "qwen3",
    "Qwen3",
    layer={**_LINEARS, **_HEAD_NORMS, **_FFN, **_NORMS},
)
GEMMA3_TEXT = _architecture(
    "Gemma 3",
    "gemma3_text",
    "Gemma3Text",
    heads=_scores("Gemma3Text", f"{__package__}.modeling_homogemma3_text", labels=None),
    refused={"Gemma3ForCausalLM": _REMEDY.format("Gemma3Text")},
    layer={
        **_LINEARS,
        **_HEAD_NORMS,
        **_FFN,
        **_NORMS,
        "pre_feedforward_layernorm.weight": (HIDDEN,),
        "post_feedforward_layernorm.weight": (HIDDEN,),
    },
    width_names={"hidden_act": "hidden_activation"},
    heads_divide=True,
)
