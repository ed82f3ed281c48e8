"""How well a student's vectors stand for its teacher's, on the same texts; what users of an index would notice.

Shapes: N texts, D channels.
"""

import torch
from torch.nn import functional as F

NUM_NEIGHBOURS = 10
_ROWS = 256


def agreement(student_ND: torch.Tensor, teacher_ND: torch.Tensor) -> dict[str, float]:
    """Compare the vectors of the same texts.

    Args:
        student_ND: float, any length.
        teacher_ND: of the same shape.

    Returns:
        `cosine`: mean of a text's two vectors. `neighbours`: share of a text's ten nearest others that both models
        agree on, each in its own index; `neighbours_in_index`: where the student's vector is looked up in the
        teacher's. `spread`: standard deviation of similarities between texts, as a share of the teacher's; vectors
        that collapse have 0. Empty for fewer than two texts.

    Example:
    ```python
    >>> vectors = torch.eye(4)
    >>> found = agreement(vectors, vectors)
    >>> found["cosine"], found["neighbours"]
    (1.0, 1.0)

    ```
    """
    if len(student_ND) < 2:
        return {}
    student, teacher = (F.normalize(vectors.double(), dim=-1) for vectors in (student_ND, teacher_ND))
    num_neighbours = min(NUM_NEIGHBOURS, len(student) - 1)
    shared, shared_in_index, moments = 0, 0, torch.zeros(2, 3, dtype=torch.float64)
    for start in range(0, len(student), _ROWS):
        rows = slice(start, start + _ROWS)
        pairs = (teacher, teacher), (student, student), (student, teacher)
        similarities = [queries[rows] @ index.T for queries, index in pairs]
        others = torch.ones_like(similarities[0], dtype=torch.bool)
        others[torch.arange(len(others)), start + torch.arange(len(others))] = False
        for side in range(2):
            values = similarities[side][others]
            moments[side] += torch.tensor([values.numel(), values.sum(), values.square().sum()], dtype=torch.float64)
        of_teacher, own, in_index = (
            one.masked_fill(~others, -torch.inf).topk(num_neighbours).indices for one in similarities
        )
        shared += _num_shared(own, of_teacher)
        shared_in_index += _num_shared(in_index, of_teacher)
    means = moments[:, 1:] / moments[:, :1]
    deviations = (means[:, 1] - means[:, 0].square()).clamp(min=0).sqrt()
    return {
        "cosine": float((student * teacher).sum(-1).mean()),
        "neighbours": shared / (num_neighbours * len(student)),
        "neighbours_in_index": shared_in_index / (num_neighbours * len(student)),
        "spread": float(deviations[1] / deviations[0].clamp(min=1e-12)),
    }


def _num_shared(found: torch.Tensor, expected: torch.Tensor) -> int:
    return int((found[:, :, None] == expected[:, None, :]).sum())
