"""Learnable projections from the student's hidden size to the teacher's.

In training they are a submodule of the student, so that optimizer, clipping and DDP see them. Checkpoints store them
beside its weights; exports leave them out.
"""

from collections.abc import Callable, Iterable, Sequence

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


class LeastSquares:
    """Sums over the tokens of some batches, from which the W of H_s·W ≈ H_t follows, for each pair of states.

    Memory: 8·H_s·(H_s + H_t) bytes a pair on the host: 113 MB for the 12 layers of two BERT-base.
    """

    def __init__(self) -> None:
        self.sums: list[torch.Tensor] = []
        self.num_tokens = 0

    def add(self, own: Sequence[torch.Tensor], targets: Sequence[torch.Tensor], is_token_BT: torch.Tensor) -> None:
        """Add a batch.

        Args:
            own: the student's hidden states `(B, T, H_s)`.
            targets: the teacher's, `(B, T, H_t)`, one for each of the student's.
            is_token_BT: False for padding.
        """
        for place, states in enumerate(zip(own, targets, strict=True)):
            # tokens of all rows behind each other; then HᵀH and HᵀT side by side
            own_NS, target_NT = (state[is_token_BT].cpu().double() for state in states)
            products = own_NS.T @ torch.cat([own_NS, target_NT], -1)
            if place == len(self.sums):
                self.sums.append(torch.zeros_like(products))
            self.sums[place] += products
        self.num_tokens += int(is_token_BT.sum())

    def fit(
        self, projections: Iterable[nn.Module], reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums
    ) -> None:
        """Set the weights of linear layers, one for each pair of states; `reduce` adds up what all ranks have seen."""
        num_tokens = int(reduce(torch.tensor(self.num_tokens)))
        for project, total in zip(projections, self.sums, strict=True):
            # a linear layer holds W transposed
            project.load_state_dict({"weight": _least_squares(reduce(total).cpu(), num_tokens).T})


def _least_squares(sums: torch.Tensor, num_rows: int) -> torch.Tensor:
    """The W of the least norm that minimises ‖H W − T‖, from (HᵀH, HᵀT) side by side in float64.

    Directions in which H is no larger than float32's rounding of `num_rows` rows count as 0, as in a solution by H
    itself; in HᵀH sizes are squared.
    """
    size = len(sums)
    cutoff = (torch.finfo(torch.float32).eps * max(num_rows, size)) ** 2
    return torch.linalg.lstsq(sums[:, :size], sums[:, size:], rcond=cutoff, driver="gelsd").solution.float()
