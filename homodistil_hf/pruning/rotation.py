"""Rotates the channels inside each head, so that pruning some of them loses little; the function stays the same.

Queries and keys of one head may be multiplied by T and T⁻ᵀ, for any invertible T: their products stay. So may values
and the columns of attention-out. In a trained model every channel carries a part of its head's work, and dropping any
of them hurts. In the bases chosen here, channels are uncorrelated and ordered by their contribution on real text. No
channel has a mean that would be lost with it. trainer.py chooses the layers, the text and the moment.

Shapes: T tokens, H heads, C channels of a head and a 1 behind them.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..distillation.attention_recorder import AttentionRecorder
from ..models.architectures import architecture_of
from ..models.architectures.modeling_layerwise import LayerwiseModel, layer_config, layer_head_dim
from ..models.equality import evaluation_mode
from ..models.widths import WidthPlan

_RANK_TOLERANCE, _ROUNDING = 1e-6, 1e-13
_ENCODER_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


def rotated_layers(full: WidthPlan, target: WidthPlan) -> list[int]:
    """Return the layers in which a plan drops channels inside heads; in others new bases would change nothing.

    Args:
        full: the student's widths before pruning.
        target: the widths to reach.
    """
    # Which layers stay of more than the target's is not known yet: those with the least of its channels count.
    narrow = min(target.layers, key=lambda layer: layer.head_dim)
    after = target.layers if len(target.layers) == len(full.layers) else (narrow,) * len(full.layers)
    pairs = zip(full.layers, after, strict=True)
    return [index for index, (before, after) in enumerate(pairs) if after.head_dim < before.head_dim]


@torch.no_grad()
def head_moments(
    model: LayerwiseModel, batches: Iterable[Mapping[str, Any]], layers: Sequence[int]
) -> dict[int, torch.Tensor]:
    """Sum moments of queries, keys and contexts (the inputs of attention-out) over some text, without its padding.

    Memory: a forward pass of one batch with what is recorded of it, and the sums: 15 MB for BERT-base.

    Args:
        model: a student; its mode is restored.
        batches: inputs of the encoder, on its device; other columns are ignored.
        layers: layer indices.

    Returns:
        `dict`: layer index → [`moments_of`] queries, keys and contexts, summed over batches, `(3, num_heads,
        head_dim + 1, head_dim + 1)`, float64, on the CPU.
    """
    moments = {}
    for index in layers:
        widths = layer_config(model.config, index)
        size = layer_head_dim(widths) + 1
        moments[index] = torch.zeros(3, widths.num_attention_heads, size, size, dtype=torch.float64)
    recorder = AttentionRecorder(model, ("query", "key", "context"), layers=layers)
    with evaluation_mode(model):
        for batch in batches:
            inputs = {name: batch[name] for name in _ENCODER_INPUTS if batch.get(name) is not None}
            mask = inputs.get("attention_mask")
            kept = None if mask is None else mask.flatten().bool()
            with recorder.recording() as recorded:
                model.base_model(**inputs)
            for index, of_layer in zip(layers, recorded, strict=True):
                for total, states in zip(moments[index], of_layer, strict=True):
                    total += moments_of(states.flatten(0, -2), kept, num_heads=len(total))
    recorder.remove()
    return moments


def moments_of(states: torch.Tensor, kept: torch.Tensor | None, *, num_heads: int) -> torch.Tensor:
    """Sum x·xᵀ over tokens, with a 1 behind every state x: count, sums and products in one tensor.

    Args:
        states: `(num_tokens, num_heads · head_dim)`.
        kept: bool, the tokens that count; None: all.
        num_heads: heads that share the channels.

    Returns:
        `torch.DoubleTensor` of shape `(num_heads, head_dim + 1, head_dim + 1)`, on the CPU.

    Example:
    ```python
    >>> moments_of(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([True, True, False]), num_heads=1).tolist()
    [[[10.0, 4.0], [4.0, 2.0]]]

    ```
    """
    if kept is not None:
        states = states[kept]
    heads_THC = states.cpu().double().view(len(states), num_heads, -1)
    heads_THC = nn.functional.pad(heads_THC, (0, 1), value=1.0)
    return torch.einsum("thc,thd->hcd", heads_THC, heads_THC)


def paired_bases(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the bases in which products a·b of two vectors split into uncorrelated channels, the largest first.

    With E[a·aᵀ] = P, E[b·bᵀ] = Q and the singular values √P·√Q = U·S·Vᵀ, the channels of A = S^-½·Vᵀ·√Q times a and of
    A⁻ᵀ times b have the same diagonal moments S. Dropping the last channels is then the best of all approximations of
    a·b of that rank, for independent a and b. Where S vanishes any basis of the rest will do.

    Args:
        first: P, `(channels, channels)`, positive semi-definite, float64.
        second: Q, alike.

    Returns:
        `(A, A⁻ᵀ)`: float64; the largest entry of every row of A is positive.

    Example:
    ```python
    >>> a, b = paired_bases(torch.diag(torch.tensor([1.0, 9.0]).double()), torch.eye(2).double())
    >>> (a.T @ b).allclose(torch.eye(2).double()), a.abs().argmax(1).tolist()
    (True, [1, 0])

    ```
    """
    root_first, root_second = _root(first), _root(second)
    left, sizes, right = torch.linalg.svd(root_first @ root_second)
    # Dividing by the root of a size near 0 would make rounding errors large.
    rank = int((sizes > _RANK_TOLERANCE * sizes[0]).sum())
    rows = (right[:rank] @ root_second) / sizes[:rank, None].sqrt()
    opposite = (left[:, :rank].T @ root_first) / sizes[:rank, None].sqrt()
    # Fill the basis up with directions at right angles to all that the other side sees.
    rest = torch.linalg.svd(opposite, full_matrices=True)[2][rank:]
    basis = torch.cat([rows, rest])
    # Signs are arbitrary in a decomposition; fix them, so that every machine finds the same bases.
    basis = basis * basis.gather(1, basis.abs().argmax(1, keepdim=True)).sign()
    return basis, torch.linalg.inv(basis).T


def _root(moments: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(moments)
    # Rounding can leave small eigenvalues below 0, where no root exists.
    values = torch.where(values > _ROUNDING * values[-1], values, 0.0)
    return (vectors * values.sqrt()) @ vectors.T


@torch.no_grad()
def rotate_heads(model: LayerwiseModel, moments: Mapping[int, torch.Tensor]) -> None:
    """Bring heads into their own bases, in place; the model computes the same as before.

    Scores of attention stay as they are, exactly. Means of contexts move into the bias of attention-out, where they
    arrive whole because every row of attention sums to 1.

    Args:
        model: a student whose heads are all there.
        moments: the result of [`head_moments`]. A layer that has seen no token keeps its bases.
    """
    for layer, sums in moments.items():
        if sums[0, 0, -1, -1] == 0:  # the number of tokens
            continue
        queries, keys, values, output = architecture_of(model.config).attention_linears(model, layer)
        query, key, context = sums.cpu()
        # Means first, because they belong to channels in the old bases.
        means = _mean(context).flatten().to(values.bias.device, values.bias.dtype)
        values.bias.data -= means
        output.bias.data += output.weight @ means
        num_heads, size = len(context), context.shape[-1] - 1
        for head in range(num_heads):
            channels = slice(head * size, (head + 1) * size)
            # Softmax ignores what all keys share, so keys count around their mean; queries count whole.
            weights = tuple(linear.weight[channels].cpu().double() for linear in (queries, keys, values))
            bases = _with_old_ratio(paired_bases(_second(query)[head], _covariance(key)[head]), weights[:2])
            _multiply(queries, channels, bases[0])
            _multiply(keys, channels, bases[1])
            # A head's output is Σ_c context_c · column_c: contexts and columns multiply as queries and keys do.
            # Columns are weights, so their moments are exact; all hidden channels count alike.
            columns = output.weight[:, channels].T.cpu().double()
            bases = paired_bases(columns @ columns.T, _covariance(context)[head])
            bases = _with_old_ratio(bases, (columns, weights[2]))
            output.weight.data[:, channels] = (bases[0] @ columns).T.to(output.weight)
            _multiply(values, channels, bases[1])


def _multiply(linear: nn.Linear, channels: slice, basis: torch.Tensor) -> None:
    for parameter in (linear.weight, linear.bias):
        parameter.data[channels] = (basis @ parameter[channels].cpu().double()).to(parameter)


def _with_old_ratio(
    bases: tuple[torch.Tensor, torch.Tensor], weights: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale two bases so that the ratio of both weights' norms stays: one learning rate still suits both."""
    norms = [float(weight.norm()) for weight in weights]
    new_norms = [float((basis @ weight).norm()) for basis, weight in zip(bases, weights, strict=True)]
    if min(*norms, *new_norms) == 0:
        return bases
    # f·n₁' / (n₂' / f) = n₁ / n₂; products stay, as f and 1 / f cancel
    factor = (norms[0] / norms[1] * new_norms[1] / new_norms[0]) ** 0.5
    return bases[0] * factor, bases[1] / factor


def _second(total: torch.Tensor) -> torch.Tensor:
    # sums of products stand before the last row and column, sums in them, the count in their corner
    return total[:, :-1, :-1] / total[:, -1:, -1:]


def _mean(total: torch.Tensor) -> torch.Tensor:
    return total[:, :-1, -1] / total[:, -1, -1:]


def _covariance(total: torch.Tensor) -> torch.Tensor:
    mean = _mean(total)
    # E[x·xᵀ] − E[x]·E[x]ᵀ
    return _second(total) - mean[:, :, None] * mean[:, None, :]
