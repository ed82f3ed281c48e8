"""How alike two vectors are, by the function that a model's own settings name, as sentence-transformers has it.

Shapes: N and M vectors of D channels.
"""

import torch
from torch.nn import functional as F

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
"""Names in the settings of a model; distances are negative, so that more is always more alike."""
COSINE = SIMILARITIES[0]
"""The library's own, where a model names none."""
_NORMS = {"euclidean": 2.0, "manhattan": 1.0}


def compared(vectors_ND: torch.Tensor, similarity: str = COSINE) -> torch.Tensor:
    """Vectors as they are compared: brought to length 1 for cosines, as they are for all others."""
    return F.normalize(vectors_ND, dim=-1) if similarity == COSINE else vectors_ND


def similarities(first_ND: torch.Tensor, second_MD: torch.Tensor, similarity: str = COSINE) -> torch.Tensor:
    """Compare each of the first vectors with each of the second.

    Args:
        first_ND: float.
        second_MD: float.
        similarity: of `SIMILARITIES`.

    Returns:
        `torch.Tensor`: `(N, M)`.

    Example:
    ```python
    >>> vectors = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    >>> [similarities(vectors, vectors, name)[0, 1].item() for name in ("dot", "euclidean", "manhattan")]
    [8.0, -3.605551242828369, -5.0]

    ```
    """
    if similarity in _NORMS:
        # Exact, not by products of matrices, which round distances of near vectors away.
        return -torch.cdist(first_ND, second_MD, _NORMS[similarity], "donot_use_mm_for_euclid_dist")
    return compared(first_ND, similarity) @ compared(second_MD, similarity).T


def pair_similarities(first_ND: torch.Tensor, second_ND: torch.Tensor, similarity: str = COSINE) -> torch.Tensor:
    """Compare each of the first vectors with the second one in the same row; `(N,)`."""
    if similarity in _NORMS:
        return -torch.linalg.vector_norm(first_ND - second_ND, _NORMS[similarity], dim=-1)
    return (compared(first_ND, similarity) * compared(second_ND, similarity)).sum(-1)
