"""Learnable projections from the student's hidden size to the teacher's.

In training they are a submodule of the student, so that optimizer, clipping and DDP see them. Checkpoints store them
beside its weights; exports leave them out.
"""

import torch
from torch import nn


class Projections(nn.Module):
    """One matrix a layer, and one for the embeddings: H_s·W_k lives in the teacher's space.

    HomoDistil (section 3) starts them at random. Here the identity is the default. The student starts equal to the
    teacher, so with the identity these losses start at 0: the paper's argument for the weights.

    Args:
        student_size: the student's hidden size at the start.
        teacher_size: the teacher's; equal to the student's unless the teacher is another model.
        num_hidden_layers: number of hidden states to compare; 0 without that loss.
        with_embedding: whether embeddings are compared.
        init: `"identity"` or `"random"` (normal, standard deviation 1/√student_size).

    Example:
    ```python
    >>> projections = Projections(2, 3, num_hidden_layers=1)
    >>> projections.hidden[0](torch.tensor([5.0, 7.0])).tolist()
    [5.0, 7.0, 0.0]

    ```
    """

    def __init__(
        self,
        student_size: int,
        teacher_size: int,
        *,
        num_hidden_layers: int,
        with_embedding: bool = True,
        init: str = "identity",
    ):
        super().__init__()

        def projection() -> nn.Linear:
            matrix = nn.Linear(student_size, teacher_size, bias=False)
            with torch.no_grad():
                if init == "identity":
                    nn.init.eye_(matrix.weight)
                else:
                    matrix.weight.normal_(std=student_size**-0.5)
            return matrix

        self.embedding = projection() if with_embedding else None
        self.hidden = nn.ModuleList(projection() for _ in range(num_hidden_layers))
