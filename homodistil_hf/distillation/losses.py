"""Formulas of the loss terms, pure functions of tensors.

Every function returns a *sum*. objective.py divides it by the count of the global batch, so that 1×8 = 8×1
accumulation = 2 ranks, and weights the terms. tasks.py selects the rows of logits that count.

Shapes: B batch, T tokens, H hidden, N heads, D head size, R rows of predictions, C classes (the vocabulary for masked
words).
"""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch.nn import functional as F

from ..data.masking import UNKNOWN_VALUE
from ..models.chunks import row_slices, slices

Activation = Callable[[torch.Tensor], torch.Tensor]
CPU_CHUNK_ELEMENTS = 1 << 18
"""Hidden states or attention scores that are compared at a time on a CPU."""
LAYERS_ELEMENTS = {"cpu": 0}
OTHER_LAYERS_ELEMENTS = 1 << 28
"""Hidden states of several layers that are compared at a time: 1 GB in float32; on a CPU one layer's."""
_LEAST_SQUARE = 1e-12  # of a vector's length


def same(values: torch.Tensor) -> torch.Tensor:
    """Return what is given: the activation of a model without one."""
    return values


def prediction_terms(
    student_RC: torch.Tensor, teacher_RC: torch.Tensor, labels_R: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy with the labels and KL(teacher ‖ student), summed over rows.

    CE = −Σ_r log p_s(y_r),   KL = Σ_r Σ_c p_t(c)·(log p_t(c) − log p_s(c))   (HomoDistil, section 3: L_MLM and D_KL).

    For few classes. [`decoded_terms`] does the same for a whole vocabulary without holding its logits.

    Args:
        student_RC: logits, any floating type.
        teacher_RC: logits of the same shape; no gradient.
        labels_R: int64 classes; rows with a label outside [0, C) add nothing to CE, but count in KL.

    Returns:
        `(CE, KL)`: scalars, float32 (float64 for float64 logits).

    Example:
    ```python
    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> ce, kl = prediction_terms(logits, logits, torch.tensor([0]))
    >>> round(float(ce), 4), float(kl)
    (0.1269, 0.0)

    ```
    """
    exact = exact_dtype(student_RC)
    log_student = student_RC.to(exact).log_softmax(-1)
    log_teacher = teacher_RC.detach().to(exact).log_softmax(-1)
    counted = labels_R.masked_fill((labels_R < 0) | (labels_R >= student_RC.shape[-1]), -100)
    ce = F.nll_loss(log_student, counted, ignore_index=-100, reduction="sum")  # with the line above: F.cross_entropy
    return ce, F.kl_div(log_student, log_teacher, reduction="sum", log_target=True)


def exact_dtype(tensor: torch.Tensor) -> torch.dtype:
    """Return the type in which a loss is computed from a tensor: float64 for float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def regression_terms(
    student_RC: torch.Tensor, teacher_RC: torch.Tensor, labels_RC: torch.Tensor, *, activation: Activation = same
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared error with the labels and the KL of two unit-variance Gaussians, ½·(z_t − z_s)², summed over rows.

    Args:
        student_RC: predicted values.
        teacher_RC: the teacher's.
        labels_RC: floating targets of the same number of elements; `UNKNOWN_VALUE` counts in KL alone.
        activation: of a predicted value, which labels are compared with.

    Returns:
        `(squared error, KL)`: scalars, float32 or float64; both averaged over C.

    Example:
    ```python
    >>> error, kl = regression_terms(torch.tensor([[1.0]]), torch.tensor([[3.0]]), torch.tensor([[0.0]]))
    >>> float(error), float(kl)
    (1.0, 2.0)

    ```
    """
    exact = exact_dtype(student_RC)
    student, teacher = student_RC.to(exact), teacher_RC.detach().to(exact)
    labels = labels_RC.to(exact).view_as(student)
    num_values = student.shape[-1]
    errors = (activation(student) - labels).masked_fill(labels == UNKNOWN_VALUE, 0.0)
    return errors.square().sum() / num_values, 0.5 * (teacher - student).square().sum() / num_values


def multi_label_terms(
    student_RC: torch.Tensor, teacher_RC: torch.Tensor, labels_RC: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy with the labels and the KL of independent Bernoullis, averaged over C, summed over rows.

    Args:
        student_RC: logits.
        teacher_RC: the teacher's logits.
        labels_RC: targets in [0, 1]; `UNKNOWN_VALUE` counts in KL alone.

    Returns:
        `(binary cross-entropy, KL)`: scalars, float32 or float64.
    """
    exact = exact_dtype(student_RC)
    student, teacher = student_RC.to(exact), teacher_RC.detach().to(exact)
    num_classes = student.shape[-1]
    with_logits = partial(F.binary_cross_entropy_with_logits, reduction="sum")
    # KL = cross-entropy with the teacher's probabilities − their entropy
    kl = with_logits(student, teacher.sigmoid()) - with_logits(teacher, teacher.sigmoid())
    labels = labels_RC.to(exact)
    is_known = labels != UNKNOWN_VALUE
    # unknown labels weigh 0
    errors = with_logits(student, labels.masked_fill(~is_known, 0.0), weight=is_known.to(exact))
    return errors / num_classes, kl / num_classes


def hidden_error(
    teacher_BTH: torch.Tensor,
    projected_BTH: torch.Tensor,
    token_mask_BT: torch.Tensor | None = None,
    *,
    is_relative: bool = False,
) -> torch.Tensor:
    """Squared error of one layer's hidden states, averaged over channels and summed over tokens.

    Σ_tokens ‖H_t − H_s·W‖² / d_teacher (HomoDistil, section 3: L_hidn, and L_emb for the embeddings).

    Args:
        teacher_BTH: the teacher's states.
        projected_BTH: the student's, projected to the teacher's hidden size.
        token_mask_BT: 1 = token, 0 = padding; default: no padding.
        is_relative: divide each token's error by the mean square of the teacher's state, for states without a
            LayerNorm behind them. Each token has its own divisor, so the rest of the batch has no influence.

    Returns:
        `torch.Tensor`: scalar, float32 or float64.

    Example:
    ```python
    >>> teacher, projected = torch.zeros(1, 2, 4), torch.ones(1, 2, 4)
    >>> float(hidden_error(teacher, projected)), float(hidden_error(teacher, projected, torch.tensor([[1, 0]])))
    (2.0, 1.0)

    ```
    """
    return _errors_of(teacher_BTH, projected_BTH, token_mask_BT, is_relative=is_relative, leading=0)


def _errors_of(
    teacher_BTH: torch.Tensor,
    projected_BTH: torch.Tensor,
    token_mask_BT: torch.Tensor | None,
    *,
    is_relative: bool,
    leading: int,
) -> torch.Tensor:
    """[`hidden_error`], of states with `leading` dimensions in front that stay."""
    mask_BT1 = None if token_mask_BT is None else token_mask_BT[..., None]
    # both sides by the root mean square of the teacher's state, so the error is a share of its square
    if is_relative:
        squares_BT1 = teacher_BTH.to(exact_dtype(teacher_BTH)).square().mean(-1, keepdim=True)
        shares_BT1 = squares_BT1.clamp(min=torch.finfo(torch.float32).tiny).rsqrt().to(teacher_BTH.dtype)
        teacher_BTH, projected_BTH = teacher_BTH * shares_BT1, projected_BTH * shares_BT1
    return _SquaredError.apply(projected_BTH, teacher_BTH, mask_BT1, leading) / teacher_BTH.shape[-1]


def hidden_errors(
    layers: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    token_mask_BT: torch.Tensor | None = None,
    *,
    is_relative: bool = False,
) -> list[torch.Tensor]:
    """[`hidden_error`] of several layers, whose states are projected first.

    A CPU waits for memory, so it takes one layer after the other. An accelerator waits for launches, so it takes
    several layers at once.

    Args:
        layers: of each the teacher's states, the student's, and the matrix `(teacher's hidden size, student's)`, as a
            linear layer holds it.
        token_mask_BT: as of [`hidden_error`].
        is_relative: as of [`hidden_error`].

    Returns:
        `list` of scalars, float32 or float64.
    """
    if not layers:
        return []
    first = layers[0][0]
    most = LAYERS_ELEMENTS.get(first.device.type, OTHER_LAYERS_ELEMENTS)
    errors: list[torch.Tensor] = []
    for some in slices(len(layers), most // first.numel()):
        targets, states, weights = zip(*layers[some], strict=True)
        if len(states) == 1:
            projected = F.linear(states[0], weights[0])
            errors.append(hidden_error(targets[0], projected, token_mask_BT, is_relative=is_relative))
        else:
            weights_KHH = torch.stack(weights)
            if weights_KHH.requires_grad:
                weights_KHH.register_hook(torch.Tensor.contiguous)  # autograd would copy each layer's, as transposed
            # one product of each layer's tokens and matrix: (K, B · T, H_s) @ (K, H_s, H_t)
            products = torch.stack(states).flatten(1, -2) @ weights_KHH.mT
            stacked = torch.stack(targets), products.view(len(targets), *targets[0].shape)
            errors += _errors_of(*stacked, token_mask_BT, is_relative=is_relative, leading=1)
    return errors


class _SquaredError(torch.autograd.Function):
    """Σ (a − b)² over the mask, one sum for each index of the leading dimensions.

    It saves the difference alone, in the type of a, which its gradient has anyway.
    """

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor | None, leading: int) -> torch.Tensor:
        kept = torch.empty_like(a)
        totals: list[torch.Tensor] = []
        for rows in row_slices(a, CPU_CHUNK_ELEMENTS) if leading == 0 else [slice(None)]:
            # subtracted in the exact type; only the copy for the gradient is rounded
            difference = a[rows].to(exact_dtype(b)) - b[rows]
            if mask is not None:
                difference *= mask[rows]
            kept[rows] = difference
            # squared norms of rows, without a tensor of all squares
            totals.append(torch.linalg.vector_norm(difference, dim=-1).square_().flatten(leading).sum(-1))
        ctx.save_for_backward(kept)
        return reduce(torch.add, totals)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (difference,) = ctx.saved_tensors
        # d Σ (a − b)² / da = 2·(a − b); masked differences are 0
        return difference * (2 * grad).view(*grad.shape, *[1] * (difference.dim() - grad.dim())), None, None, None


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


def vector_error(student_BD: torch.Tensor, teacher_BD: torch.Tensor) -> torch.Tensor:
    """Σ_b ‖z_s − z_t‖² / ‖z_t‖².

    Of vectors of length 1 it is 2 − 2·cos (LEAF, arXiv 2509.12539: its only loss). Vectors of other lengths, which
    models that compare by dot product or distance have, count alike, whatever their unit of length.

    Returns:
        `torch.Tensor`: scalar.
    """
    squares_B = teacher_BD.square().sum(-1).clamp(min=_LEAST_SQUARE)
    return ((student_BD - teacher_BD).square().sum(-1) / squares_B).sum()


def attention_error(
    teacher_BNTT: torch.Tensor, student_BNTT: torch.Tensor, token_mask_BT: torch.Tensor | None = None
) -> torch.Tensor:
    """Squared error of one layer's attention scores, averaged over heads and summed over token pairs.

    Σ_pairs ‖A_t − A_s‖² / N with A the scores before the softmax (HomoDistil, section 3: L_attn).

    Args:
        teacher_BNTT: scores of the heads in the loss.
        student_BNTT: scores of the same heads.
        token_mask_BT: 1 = token, 0 = padding; pairs with padding don't count. Default: no padding.

    Returns:
        `torch.Tensor`: scalar, float32 or float64.
    """
    mask_B1TT = None
    if token_mask_BT is not None:
        mask_B1TT = token_mask_BT[:, None, :, None] * token_mask_BT[:, None, None, :]
    return _SquaredError.apply(student_BNTT, teacher_BNTT, mask_B1TT, 0) / teacher_BNTT.shape[1]


def attention_scores(
    query_BTA: torch.Tensor,
    key_BTA: torch.Tensor,
    *,
    num_heads: int,
    scaling: float,
    heads: torch.Tensor | None = None,
) -> torch.Tensor:
    """Scores before the softmax, q·kᵀ·scaling.

    Args:
        query_BTA: queries of all heads side by side.
        key_BTA: keys.
        num_heads: N; A = N × head size.
        scaling: the softmax scale, 1/√d.
        heads: int64 indices of the heads wanted; no others are computed. Default: all.

    Returns:
        `torch.Tensor` of shape `(B, N, T, T)`, N the heads wanted, the inputs' type.

    Example:
    ```python
    >>> query, key = torch.ones(1, 2, 6), torch.ones(1, 2, 6)
    >>> attention_scores(query, key, num_heads=2, scaling=0.5, heads=torch.tensor([1])).tolist()
    [[[[1.5, 1.5], [1.5, 1.5]]]]

    ```
    """
    # (B, T, A) → (B, T, N, D)
    query, key = (states_BTA.unflatten(-1, (num_heads, -1)) for states_BTA in (query_BTA, key_BTA))
    if heads is not None and len(heads) < num_heads:
        query, key = query.index_select(2, heads), key.index_select(2, heads)
    # Scaled before the product: queries are fewer numbers than scores.
    return (query * scaling).transpose(1, 2) @ key.permute(0, 2, 3, 1)
