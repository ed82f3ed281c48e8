"""Figures that compare the results of a runtime with the model's own."""

from collections.abc import Mapping, Sequence

import torch

from ..models.equality import relative_difference

_MANY_CLASSES = 1000
_MOST_POSITIONS = 8


def some_positions(num_tokens: int, num_classes: int) -> list[int]:
    """Positions of a row that are compared: all, or 8 spread evenly where each has the logits of a vocabulary.

    Example:
    ```python
    >>> some_positions(3, 9), some_positions(15, 30522)
    ([0, 1, 2], [0, 2, 4, 6, 8, 10, 12, 14])

    ```
    """
    if num_classes <= _MANY_CLASSES or num_tokens <= _MOST_POSITIONS:
        return list(range(num_tokens))
    # both ends are among them
    return [index * (num_tokens - 1) // (_MOST_POSITIONS - 1) for index in range(_MOST_POSITIONS)]


def compare_answers(
    expected: Sequence[Mapping[str, torch.Tensor]], found: Sequence[Mapping[str, torch.Tensor]], rule: str
) -> dict[str, float]:
    """Compare logits.

    Args:
        expected: the model's own, of each row: name → `(…, classes)`.
        found: the runtime's.
        rule: how answers are equal. `first`: the highest logit is that of the same class, token or position; `each`:
            every logit has the same sign; `order`: two rows of one logit are in the same order.

    Returns:
        `fidelity`: share of equal answers. `largest_difference`: of logits, as a share of the largest one or of 1.
        `distance`: length of all differences, as a share of the length of all logits.

    Example:
    ```python
    >>> rows = [{"logits": torch.tensor([1.0, 3.0])}, {"logits": torch.tensor([2.0, 0.0])}]
    >>> others = [{"logits": torch.tensor([1.0, 3.0])}, {"logits": torch.tensor([-1.0, 0.0])}]
    >>> compare_answers(rows, others, "first")["fidelity"]
    0.5

    ```
    """
    names = expected[0]
    pairs = [
        (one[name].float(), other[name].float()) for one, other in zip(expected, found, strict=True) for name in names
    ]
    if rule == "order":
        # the one logit of each row: (R,) of the model and of the runtime
        first, second = (torch.stack([pair[side].flatten()[0] for pair in pairs]) for side in (0, 1))
        # each pair of rows once
        rows = torch.triu_indices(len(first), len(first), 1)
        equal = (first[rows[0]] < first[rows[1]]) == (second[rows[0]] < second[rows[1]])
    elif rule == "each":
        equal = torch.cat([((one > 0) == (other > 0)).flatten() for one, other in pairs])
    else:
        equal = torch.cat([(one.argmax(-1) == other.argmax(-1)).flatten() for one, other in pairs])
    return {"fidelity": float(equal.double().mean()), **differences(pairs)}


def differences(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """`largest_difference` and `distance` of pairs of tensors, the expected one first; see [`compare_answers`]."""
    one, other = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    distance = float((other - one).norm() / one.norm().clamp(min=1e-30))
    return {"largest_difference": relative_difference(other, one), "distance": distance}


def compare_vectors(
    expected: Sequence[Mapping[str, torch.Tensor]], found: Sequence[Mapping[str, torch.Tensor]]
) -> dict[str, float]:
    """Compare vectors of texts, under each name that both have; the worst counts.

    Returns:
        `fidelity`: mean cosine. `lowest_cosine`. `neighbours`: share of the three nearest other texts that are kept.
        `largest_difference` and `distance` as in [`compare_answers`].
    """
    figures = []
    for name in (name for name in expected[0] if name in found[0]):
        one, other = (torch.stack([row[name].float().flatten() for row in rows]) for rows in (expected, found))
        cosines = torch.cosine_similarity(one, other, dim=-1)
        figures.append(
            {
                "fidelity": float(cosines.mean()),
                "lowest_cosine": float(cosines.min()),
                "neighbours": _shared_neighbours(one, other),
                **differences([(one, other)]),
            }
        )
    return min(figures, key=lambda row: row["fidelity"])


def _shared_neighbours(one: torch.Tensor, other: torch.Tensor, num_nearest: int = 3) -> float:
    num_nearest = min(num_nearest, len(one) - 1)
    if num_nearest < 1:
        return 1.0
    nearest = []
    for vectors in (one, other):
        # no text is its own neighbour: -2 is below every cosine
        unit = torch.nn.functional.normalize(vectors, dim=-1)
        nearest.append((unit @ unit.T).fill_diagonal_(-2).topk(num_nearest).indices)
    # (R, k, 1) against (R, 1, k): which neighbours are among the other side's
    return float((nearest[0][:, :, None] == nearest[1][:, None]).any(-1).double().mean())
