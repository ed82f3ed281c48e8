"""A few logits of a fixed input, recorded in facts and compared wherever an export is loaded."""

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from ..models.architectures import max_tokens

_NUM_PROBE_TOKENS = 16
_NUM_PROBE_LOGITS = 64


def probe_inputs(config: PreTrainedConfig, *, most: int | None = None) -> dict[str, torch.Tensor]:
    """Two fixed sequences of up to 16 tokens, one of them padded, with both segments where the model has them.

    `most` is the model's number of positions; default: by its architecture.

    Returns:
        `input_ids`, `attention_mask` and, where a model has them, `token_type_ids`, each `(2, tokens)` int64.
    """
    num_tokens = min(_NUM_PROBE_TOKENS, most or max_tokens(config))
    # A prime stride spreads the tokens over any vocabulary.
    input_ids_BT = (torch.arange(2 * num_tokens) * 7919 + 1).remainder(config.vocab_size).view(2, num_tokens)
    attention_mask_BT = torch.ones_like(input_ids_BT)
    attention_mask_BT[1, 3 * num_tokens // 4 :] = 0
    segments = torch.arange(num_tokens) >= num_tokens // 2
    inputs = {"input_ids": input_ids_BT, "attention_mask": attention_mask_BT}
    if num_types := getattr(config, "type_vocab_size", 0):
        inputs["token_type_ids"] = (segments.long() * (num_types > 1)).expand(2, -1).contiguous()
    return inputs


def all_logits(outputs: ModelOutput) -> torch.Tensor:
    """The logits of any head as one tensor; for question answering `(batch, tokens, 2)`, start and end."""
    if "start_logits" in outputs:
        return torch.stack((outputs["start_logits"], outputs["end_logits"]), dim=-1)
    return outputs["logits"]


def probe_facts(model: PreTrainedModel, inputs: dict[str, torch.Tensor] | None = None) -> dict[str, Any]:
    """Evenly picked logits of a model in evaluation mode on `inputs`, by default [`probe_inputs`].

    Returns:
        The inputs as lists; `positions` in the flattened logits and the `logits` there, up to 64.

    Raises:
        ValueError: logits are not finite.
    """
    inputs = inputs or probe_inputs(model.config)
    with torch.no_grad():
        logits = all_logits(model(**inputs)).flatten()
    if not bool(logits.isfinite().all()):
        raise ValueError(
            f"model gives logits that are not finite ({int((~logits.isfinite()).sum())} of {logits.numel()} on the "
            f"probe); its training diverged: export an earlier checkpoint"
        )
    positions = torch.linspace(0, logits.numel() - 1, min(_NUM_PROBE_LOGITS, logits.numel())).long()
    lists = {name: tensor.tolist() for name, tensor in inputs.items()}
    return {**lists, "positions": positions.tolist(), "logits": logits[positions].tolist()}
