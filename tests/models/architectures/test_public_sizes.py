"""Well-known checkpoints by their published sizes, without weights: each has a plan that its stock class holds."""

import pytest

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import stock_config
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import widths_of
from homodistil_hf.plans.resolve import resolve_plan

_BASE = {"hidden_size": 768, "num_attention_heads": 12, "num_hidden_layers": 12, "intermediate_size": 3072}
_JINA = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24, "intermediate_size": 4096}
_QWEN3_EMBEDDING = {"hidden_size": 1024, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128}
_LLAMA = {"hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192}
PUBLIC = {
    "nomic-embed-text-v1.5": (
        "nomic_bert",
        _BASE | {"head_dim": 64, "vocab_size": 30_528},
        12 * (4 * 768 * 768 + 3 * 768 * 3072 + 2 * 128 * 768),
    ),
    "gte-multilingual-base": (
        "gte",
        _BASE | {"vocab_size": 250_048},
        12 * (4 * 768 * 768 + 3 * 768 * 3072 + 2 * 128 * 768),
    ),
    "jina-embeddings-v3": (
        "jina_embeddings_v3",
        _JINA | {"vocab_size": 250_002},
        24 * (4 * 1024 * 1024 + 2 * 1024 * 4096 + 2 * 128 * 1024),
    ),
    "EuroBERT-210m": ("eurobert", {"num_key_value_heads": 12}, 113_246_208 + 2 * 128 * 768 * 12),
    "Qwen3-Embedding-0.6B": (
        "qwen3",
        _QWEN3_EMBEDDING | {"num_hidden_layers": 28, "intermediate_size": 3072, "vocab_size": 151_669},
        28 * (1024 * (2 * 2048 + 2 * 1024) + 3 * 1024 * 3072 + 2 * 128 * 2048),
    ),
    "EmbeddingGemma-300m": (
        "gemma3_text",
        {"hidden_size": 768, "num_attention_heads": 3, "num_key_value_heads": 1, "num_hidden_layers": 24}
        | {"intermediate_size": 1152, "vocab_size": 262_144, "use_bidirectional_attention": True},
        24 * (768 * (2 * 768 + 2 * 256) + 3 * 768 * 1152 + 2 * 128 * 768),
    ),
    "Llama-3.2-1B": (
        "llama",
        _LLAMA | {"num_hidden_layers": 16, "vocab_size": 128_256},
        16 * (2048 * (2 * 2048 + 2 * 512) + 3 * 2048 * 8192 + 2 * 128 * 2048),
    ),
}
"""Public model → its type, its published sizes where they aren't the configuration's defaults, and its MACs."""


@pytest.mark.parametrize(("name", "sizes", "macs"), PUBLIC.values(), ids=PUBLIC)
def test_plans_of_public_sizes_are_stock_shapes(name, sizes, macs):
    config = ARCHITECTURES[name].config.stock(**sizes)
    assert encoder_macs(widths_of(config)) == macs
    for budget in ("macs=0.5", "macs=0.25", "macs=0.125"):
        plan = resolve_plan(budget, config)
        stock = stock_config(config, plan)
        assert plan.is_stock
        assert widths_of(stock) == plan
        assert encoder_macs(plan) / macs == pytest.approx(float(budget.partition("=")[2]), rel=0.03)
        if (groups := getattr(stock, "num_key_value_heads", None)) is not None:
            assert stock.num_attention_heads % groups == 0
