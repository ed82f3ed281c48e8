"""Attention for half types on a CPU, where torch's fused kernel is the slow one; it is in no checkpoint or export.

Shapes: B batch, N heads, T tokens, D head size.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from ..models.chunks import slices

HALF_CPU_ATTENTION = "homodistil_half_cpu"
"""Name of the implementation, for `model.set_attn_implementation`."""

CHUNK_ELEMENTS = 1 << 20
"""Attention scores computed at a time, if one sequence has no more: they stay in the processor's cache."""


def half_cpu_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """softmax(q·kᵀ·scaling)·v, with the values of plain attention and one matrix a head kept for the backward pass.

    Plain attention keeps the scores, their softmax in float32 and its half copy; this one keeps the half copy only.
    What that is worth beside both: docs/performance.md.

    Args:
        module: the attention module; unused.
        query: `(B, N, T, D)`.
        key: `(B, N, T, D)`.
        value: `(B, N, T, D)`.
        attention_mask: bool, broadcastable to `(B, N, T, T)`, False = not attended; None for no padding.
        scaling: of the scores; default 1/√D.
        dropout: rate at which attention probabilities are dropped, in [0, 1).
        kwargs: unused.

    Returns:
        `(output of shape (B, T, N, D), None)`.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    num_chunk = max(1, CHUNK_ELEMENTS // max(1, query.shape[1] * query.shape[2] * key.shape[2]))
    with torch.autocast(query.device.type, enabled=False):
        output_BTND = _Attention.apply(query, key, value, attention_mask, scaling, dropout, num_chunk)
    return output_BTND, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_BNTD: torch.Tensor,
        key_BNTD: torch.Tensor,
        value_BNTD: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        dropout: float,
        num_chunk: int,
    ) -> torch.Tensor:
        batch, heads, tokens, _ = query_BNTD.shape
        probability_BNTT = query_BNTD.new_empty(batch, heads, tokens, key_BNTD.shape[2])
        kept_BNTT = _kept(probability_BNTT, dropout) if dropout else None
        output_BTND = query_BNTD.new_empty(batch, tokens, heads, value_BNTD.shape[-1])
        for rows in slices(batch, num_chunk):
            scores = _product(query_BNTD[rows], key_BNTD[rows].transpose(2, 3)).mul_(scaling)
            if mask is not None:
                scores.masked_fill_(~mask[rows], torch.finfo(scores.dtype).min)
            probability_BNTT[rows] = scores.softmax(-1)
            attended = probability_BNTT[rows] if kept_BNTT is None else probability_BNTT[rows] * kept_BNTT[rows]
            output_BTND[rows] = _product(attended, value_BNTD[rows]).transpose(1, 2)
        ctx.save_for_backward(query_BNTD, key_BNTD, value_BNTD, probability_BNTT, kept_BNTT)
        ctx.scaling, ctx.num_chunk = scaling, num_chunk
        return output_BTND

    @staticmethod
    def backward(ctx: Any, grad_BTND: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, probability, kept = ctx.saved_tensors
        grads = [_like_a_projection(tensor) for tensor in (query, key, value)]
        with torch.autocast(query.device.type, enabled=False):
            for rows in slices(len(query), ctx.num_chunk):
                grad, p = grad_BTND[rows].transpose(1, 2), probability[rows]
                attended = p if kept is None else p * kept[rows]
                grads[2][rows] = _product(attended.transpose(2, 3), grad)
                # d softmax: P ∘ (dP − Σ_k P ∘ dP)
                grad_p = _product(grad, value[rows].transpose(2, 3))
                if kept is not None:
                    grad_p *= kept[rows]
                grad_scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype).mul_(ctx.scaling)
                grads[0][rows] = _product(grad_scores, key[rows])
                grads[1][rows] = _product(grad_scores.transpose(2, 3), query[rows])
        return *grads, None, None, None, None


def _product(left_BNXY: torch.Tensor, right_BNYZ: torch.Tensor) -> torch.Tensor:
    return torch.bmm(left_BNXY.flatten(0, 1), right_BNYZ.flatten(0, 1)).unflatten(0, left_BNXY.shape[:2])


def _kept(probability_BNTT: torch.Tensor, dropout: float) -> torch.Tensor:
    return torch.empty_like(probability_BNTT).bernoulli_(1 - dropout).div_(1 - dropout)


def _like_a_projection(tensor_BNTD: torch.Tensor) -> torch.Tensor:
    """Uninitialised, laid out as the linear layer behind a query, key or value gives it: heads side by side."""
    batch, heads, tokens, size = tensor_BNTD.shape
    return tensor_BNTD.new_empty(batch, tokens, heads, size).transpose(1, 2)


AttentionInterface.register(HALF_CPU_ATTENTION, half_cpu_attention)


AttentionMaskInterface.register(HALF_CPU_ATTENTION, sdpa_mask)
