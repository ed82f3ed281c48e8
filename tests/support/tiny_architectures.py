"""A tiny teacher of random weights for every architecture, built from the stock configuration."""

from typing import Any

import pytest
import torch
from students import make_batch
from tiny_models import VOCAB_SIZE, randomized
from torch.utils.data import default_collate
from transformers import PreTrainedModel

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.architecture import MASKED_LM, Architecture, Head
from homodistil_hf.models.widths import LayerWidths, WidthPlan, of_architecture, widths_of, with_embedding

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
_GROUPED = {"num_key_value_heads": 2, "use_cache": False, "bos_token_id": 2, "eos_token_id": 3}
_MORE: dict[str, dict[str, Any]] = {
    "electra": {"embedding_size": 20},
    "modernbert": {"local_attention": 16, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
    "eurobert": _GROUPED
    | {"attention_bias": True, "mlp_bias": True, "mask_token_id": 4, "classifier_pooling": "mean"},
    "llama": _GROUPED | {"attention_bias": True, "mlp_bias": True},
    "mistral": _GROUPED | {"sliding_window": 8},
    "qwen3": _GROUPED | {"head_dim": 8, "attention_bias": True},
    "gemma3_text": _GROUPED
    | {"head_dim": 8, "query_pre_attn_scalar": 16, "sliding_window": 8, "use_bidirectional_attention": True}
    | {"sliding_window_pattern": 2},
    "deberta-v2": _DEBERTA
    | {"position_buckets": 8, "share_att_key": True, "position_biased_input": False, "legacy": False},
}
"""Model type → what its configuration needs besides."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "modernbert-with-biases": (
        "modernbert",
        {f"{name}_bias": True for name in ("attention", "mlp", "norm", "classifier")} | {"classifier_pooling": "mean"},
    ),
    "eurobert-without-groups": (
        "eurobert",
        {"num_key_value_heads": 4, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True},
    ),
    "llama-with-wide-heads": ("llama", {"head_dim": 16, "attention_bias": False, "mlp_bias": False}),
    "qwen3-with-windows": (
        "qwen3",
        {"head_dim": 16, "attention_bias": False, "num_key_value_heads": 4, "use_sliding_window": True}
        | {"sliding_window": 4, "max_window_layers": 1, "is_causal": False},
    ),
    "gemma3-causal": ("gemma3_text", {"use_bidirectional_attention": False, "attention_bias": True, "head_dim": 16}),
    "gte-without-segments": ("gte", {"type_vocab_size": 0}),
    "ernie-with-tasks": ("ernie", {"use_task_id": True}),
    "electra-without-projection": ("electra", {"embedding_size": 32}),
    "deberta-with-all": (
        "deberta-v2",
        _DEBERTA
        | {"share_att_key": False, "position_biased_input": True, "legacy": True, "type_vocab_size": 2}
        | {"embedding_size": 20, "conv_kernel_size": 3, "conv_act": "gelu", "position_buckets": -1},
    ),
}
"""Configurations that have parameters, or lack some, that those of the others don't."""

UNIFORM = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))
UNEVEN = WidthPlan(24, (LayerWidths(3, 5, 41), LayerWidths(2, 8, 16)))
_WHOLE_HEADS = WidthPlan(24, (LayerWidths(3, 8, 41), LayerWidths(2, 8, 16)))
_PAIRED_HEADS = WidthPlan(24, (LayerWidths(4, 8, 41), LayerWidths(2, 8, 16)))
_SAME_HEADS = WidthPlan(24, (LayerWidths(3, 5, 41), LayerWidths(3, 8, 16)))

OTHERS = [architecture for architecture in ARCHITECTURES.values() if architecture.model_type != "bert"]
"""All but the one that has tests of its own."""
of_every_architecture = pytest.mark.parametrize("architecture", OTHERS, ids=[one.model_type for one in OTHERS])
MASKED_LMS = [architecture for architecture in OTHERS if architecture.heads[0].kind is MASKED_LM]
"""Those that predict masked words."""
of_every_masked_lm = pytest.mark.parametrize("architecture", MASKED_LMS, ids=[one.model_type for one in MASKED_LMS])
FAMILIES = {name: (architecture, architecture.heads, {}) for name, architecture in ARCHITECTURES.items()}
FAMILIES |= {
    variant: (ARCHITECTURES[name], ARCHITECTURES[name].heads[:2], config)
    for variant, (name, config) in VARIANTS.items()
}
"""Name → an architecture, the heads that are tested with it, and its configuration."""


def tiny_architecture_config(architecture: Architecture, **overrides: Any) -> Any:
    """2 layers × 32 hidden, 4 heads × 8, FFN 64, under the names that the architecture has for them."""
    values = {architecture.named(name): value for name, value in _SHAPE.items()}
    values |= {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 34, "pad_token_id": 0}
    return architecture.config.stock(**values | _MORE.get(architecture.model_type, {}) | overrides)


def tiny_architecture_teacher(architecture: Architecture, head: Head, **config: Any) -> PreTrainedModel:
    """Noise is on every parameter."""
    torch.manual_seed(1)
    return randomized(head.stock(tiny_architecture_config(architecture, **config)))


def dtype_of(architecture: Architecture) -> torch.dtype:
    """The type in which equalities hold to its precision: RMSNorms compute in float32 whatever they get."""
    return torch.float32 if "input_layernorm.weight" in architecture.layer else torch.float64


def rows_for(head: Head) -> dict[str, Any]:
    """Settings of a trainer with rows of a head's task; none for masked words, which trainers of tests have."""
    if head.kind is MASKED_LM:
        return {}
    batch = make_batch(head.kind.name, num_rows=8)
    rows = [{name: tensor[index] for name, tensor in batch.items()} for index in range(8)]
    return {"train_dataset": rows, "eval_dataset": rows, "data_collator": default_collate}


def masked_lm_teacher(architecture: Architecture) -> PreTrainedModel:
    return tiny_architecture_teacher(architecture, architecture.heads[0])


def plan_of(architecture: Architecture, plan: WidthPlan, **config: Any) -> WidthPlan:
    """A plan as the architecture can have it."""
    plan = _SAME_HEADS if architecture.shares_heads and plan is UNEVEN else plan
    plan = _WHOLE_HEADS if architecture.is_rotary and plan is UNEVEN else plan
    teacher = widths_of(tiny_architecture_config(architecture, **config))
    plan = _PAIRED_HEADS if plan is _WHOLE_HEADS and teacher.traits.queries_per_key == 2 else plan
    return of_architecture(with_embedding(plan, teacher, multiple=4), teacher)
