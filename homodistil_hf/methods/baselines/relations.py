"""Terms of DistilBERT's and MiniLM's losses, pure functions of tensors: cosine and relation errors.

Every function returns a *sum* over tokens, which the trainer divides by the tokens of the global batch.
distillation/losses.py has the terms that other methods share.

Shapes: B batch, T tokens, H hidden, A channels of all heads side by side, N heads, D channels of one head.
"""

from typing import Any

import torch

from ...distillation.losses import exact_dtype
from ...models.chunks import slices

Sides = tuple[torch.Tensor, torch.Tensor]
CHUNK_ELEMENTS = 1 << 22
"""Relations of one chunk of rows: their float32 temporaries stay at 16 MB each, if one row has no more."""


def cosine_error(
    teacher_BTH: torch.Tensor, student_BTH: torch.Tensor, token_mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Σ_tokens (1 − cos(H_t, H_s)), the angle between two models' states (DistilBERT, section 3: L_cos).

    Args:
        teacher_BTH: the teacher's states; no gradient.
        student_BTH: the student's, of the same size.
        token_mask_BT: 1 = token, 0 = padding; default: no padding.

    Returns:
        `torch.Tensor`: scalar, float32 or float64.

    Example:
    ```python
    >>> one, other = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    >>> float(cosine_error(one, other)), float(cosine_error(one, other, torch.tensor([[1, 0]])))
    (1.0, 0.0)

    ```
    """
    exact = exact_dtype(student_BTH)
    # A copy, as autograd saves it and can't save the teacher's inference tensors.
    teacher = teacher_BTH.clone().to(exact)
    error_BT = 1 - torch.cosine_similarity(student_BTH.to(exact), teacher, dim=-1)
    return (error_BT if token_mask_BT is None else error_BT * token_mask_BT).sum()


def relation_error(
    teacher: Sides,
    student: Sides,
    *,
    num_heads: int,
    scalings: tuple[float, float],
    token_mask_BT: torch.Tensor | None = None,
) -> torch.Tensor:
    """KL between two models' relations of tokens, averaged over heads and summed over tokens.

    Σ_t 1/N Σ_n KL(R_t[n, t] ‖ R_s[n, t]) with R = softmax(L·Rᵀ·scaling) over the tokens (MiniLM, section 3.1 and 3.2:
    queries and keys, values and values; MiniLMv2, section 3.1: queries, keys and values each with themselves).

    Rows are worked on one after the other and their gradients computed along, so that no tensor of the size N × T × T
    is kept. Padding has no relations and doesn't count. The teacher gets no gradient.

    Args:
        teacher: `(L, R)`, each `(B, T, A)`, all heads side by side.
        student: the same of the student; its A may be another.
        num_heads: N, divides both A.
        scalings: of the teacher's and of the student's products.
        token_mask_BT: 1 = token, 0 = padding; default: no padding.

    Returns:
        `torch.Tensor`: scalar, float32 or float64.

    Example:
    ```python
    >>> states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> float(relation_error((states, states), (states, states), num_heads=1, scalings=(1.0, 1.0)))
    0.0
    >>> flat = torch.zeros(1, 2, 2)
    >>> round(float(relation_error((states, states), (flat, flat), num_heads=1, scalings=(1.0, 1.0))), 4)
    0.2219

    ```
    """
    return _RelationError.apply(*student, *(side.detach() for side in teacher), token_mask_BT, num_heads, scalings)


class _RelationError(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        left_BTA: torch.Tensor,
        right_BTA: torch.Tensor,
        teacher_left: torch.Tensor,
        teacher_right: torch.Tensor,
        mask_BT: torch.Tensor | None,
        num_heads: int,
        scalings: tuple[float, float],
    ) -> torch.Tensor:
        dtype = exact_dtype(left_BTA)
        total = torch.zeros((), dtype=dtype, device=left_BTA.device)
        gradients = [torch.empty_like(side) for side in (left_BTA, right_BTA)]
        batch, tokens = left_BTA.shape[:2]
        with torch.autocast(left_BTA.device.type, enabled=False):
            # A few texts at a time: both models' relations, their KL, and at once the gradient of the student's sides.
            for rows in slices(batch, CHUNK_ELEMENTS // (num_heads * tokens * tokens)):
                mask = None if mask_BT is None else mask_BT[rows].bool()
                left, right, t_left, t_right = (
                    _heads(side[rows].to(dtype), num_heads)
                    for side in (left_BTA, right_BTA, teacher_left, teacher_right)
                )
                log_teacher = _log_relations(t_left, t_right, scalings[0], mask)
                log_student = _log_relations(left, right, scalings[1], mask)
                counted = 1.0 if mask is None else mask[:, None, :, None]
                p_teacher = log_teacher.exp() * counted
                total += (p_teacher * (log_teacher - log_student)).sum() / num_heads
                # d KL = p_s − p_t, in rows that count.
                gradient_BNTT = (log_student.exp() * counted - p_teacher) * (scalings[1] / num_heads)
                gradients[0][rows] = _side_by_side(gradient_BNTT @ right)
                gradients[1][rows] = _side_by_side(gradient_BNTT.transpose(2, 3) @ left)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        left_BTA, right_BTA = ctx.saved_tensors
        return left_BTA * gradient, right_BTA * gradient, None, None, None, None, None


def _log_relations(
    left_BNTD: torch.Tensor, right_BNTD: torch.Tensor, scaling: float, mask_BT: torch.Tensor | None
) -> torch.Tensor:
    products_BNTT = (left_BNTD * scaling) @ right_BNTD.transpose(2, 3)
    if mask_BT is not None:
        # Not −∞: the two models' log relations to padding must differ by 0, not by NaN.
        products_BNTT.masked_fill_(~mask_BT[:, None, None, :], torch.finfo(products_BNTT.dtype).min)
    return products_BNTT.log_softmax(-1)


def _heads(states_BTA: torch.Tensor, num_heads: int) -> torch.Tensor:
    return states_BTA.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _side_by_side(states_BNTD: torch.Tensor) -> torch.Tensor:
    return states_BNTD.transpose(1, 2).flatten(2)
