"""Tiny models with random weights everywhere: biases and LayerNorms too, so that every mistake shows."""

import torch
from transformers import BertConfig, PreTrainedModel

from homodistil_hf.export.probe import all_logits
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig
from homodistil_hf.models.resizing import write_plan
from homodistil_hf.models.widths import LayerWidths, WidthPlan

NUM_LAYERS = 2
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 24,
}
SOFTMAX_HEAD_DIM = 11
UNIFORM = WidthPlan.uniform(24, NUM_LAYERS, LayerWidths(3, 8, 16))
UNEVEN = WidthPlan(24, (LayerWidths(3, 5, 16), LayerWidths(2, 8, 9)))


def random_teacher(stock_class: type[PreTrainedModel], **settings: object) -> PreTrainedModel:
    return randomised(stock_class(BertConfig(**{**SHAPE, **settings})))


def random_student(
    student_class: type[PreTrainedModel], plan: WidthPlan = UNEVEN, **settings: object
) -> PreTrainedModel:
    config = HomoBertConfig(
        **{**SHAPE, "num_hidden_layers": len(plan.layers), "softmax_head_dim": SOFTMAX_HEAD_DIM, **settings}
    )
    write_plan(config, plan)
    return randomised(student_class(config))


def randomised(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def batch(config: BertConfig, num_tokens: int = 10) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    attention_mask = torch.ones(3, num_tokens, dtype=torch.long)
    attention_mask[1, 6:] = 0
    return {
        "input_ids": torch.randint(config.vocab_size, (3, num_tokens), generator=generator),
        "attention_mask": attention_mask,
        "token_type_ids": torch.randint(config.type_vocab_size, (3, num_tokens), generator=generator),
    }


def logits_of(model: PreTrainedModel, **settings: object) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(**batch(model.config), **settings)
    return outputs["prediction_logits"] if "prediction_logits" in outputs else all_logits(outputs)


def assert_same_logits(found: torch.Tensor, expected: torch.Tensor) -> None:
    """DESIGN tolerance: 1e-5 × max(1, largest |logit|) in float32, 1e-9 in float64."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    largest = max(1.0, float(expected.abs().max()))
    tolerance = 1e-5 * largest if found.dtype == torch.float32 else 1e-9
    assert float((found - expected).abs().max()) <= tolerance
