"""Learnable projections from the student's hidden size to the teacher's.

They ride on the student while it is trained (optimizer, clipping and DDP then see them), are saved beside its weights,
and never enter an export.
"""

import torch
from torch import nn


class Projections(nn.Module):
    """One matrix a layer, and one for the embeddings: H_s·W_k lives in the teacher's space.

    HomoDistil (section 3) starts them at random. Here the identity is the default: the student starts equal to the
    teacher, so these losses start at 0, by the same argument that the paper makes for the weights.

    Args:
        hidden_size: the student's and, at the start, the teacher's.
        num_hidden_layers: how many hidden states are compared; 0 without that loss.
        with_embedding: whether embeddings are compared.
        init: `"identity"` or `"random"` (normal, standard deviation 1/√hidden_size).
    """

    def __init__(
        self, hidden_size: int, *, num_hidden_layers: int, with_embedding: bool = True, init: str = "identity"
    ):
        super().__init__()
        self.init = init
        self.embedding = self._projection(hidden_size) if with_embedding else None
        self.hidden = nn.ModuleList(self._projection(hidden_size) for _ in range(num_hidden_layers))

    def _projection(self, hidden_size: int) -> nn.Linear:
        projection = nn.Linear(hidden_size, hidden_size, bias=False)
        with torch.no_grad():
            if self.init == "identity":
                projection.weight.copy_(torch.eye(hidden_size))
            else:
                projection.weight.normal_(std=hidden_size**-0.5)
        return projection
