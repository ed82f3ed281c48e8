r"""FFN neurons that stand for the others: a kernel, kernelized convex masking, a least-squares fit of the kept ones.

Pure functions of tensors, one layer at a time; `pruning.py` applies them to a model.
The paper calls a column of the FFN's second matrix a filter. Shapes: F filters, H hidden channels.
"""

import torch

MAX_UPDATES = 200
"""Updates of the masking at most."""
DAMPING = 1e-3
"""Pull of the factors towards 1, in mean diagonals of the fit."""


def gaussian_kernel(filters_FH: torch.Tensor, *, sigma: float) -> torch.Tensor:
    r"""Similarity of filters: \\(K_{ij} = \exp(-\lVert w_i - w_j \rVert^2 / \sigma^2)\\).

    Args:
        filters_FH: float32.
        sigma: σ > 0.

    Returns:
        `torch.Tensor` `(F, F)` in [0, 1], with ones on its diagonal.

    Example:
    ```python
    >>> gaussian_kernel(torch.tensor([[0.0], [0.0], [1.0]]), sigma=1.0)[0]
    tensor([1.0000, 1.0000, 0.3679])

    ```
    """
    products_FF = filters_FH @ filters_FH.T
    squares_F = products_FF.diagonal().clone()
    # ‖w_i‖² + ‖w_j‖² − 2 w_i·w_j in the memory of the products; rounding may have made it negative
    distances_FF = products_FF.mul_(-2).add_(squares_F[:, None]).add_(squares_F).clamp_min_(0)
    distances_FF.fill_diagonal_(0)  # products of a filter with itself are rounded, too
    return distances_FF.div_(-(sigma**2)).exp_()


def convex_masking(kernel_FF: torch.Tensor, *, tolerance: float = 0.01) -> torch.Tensor:
    r"""Represent every filter by non-negative shares of all: algorithm 1 of arXiv 2303.04185.

    C starts at 1/F everywhere and is updated until |Σ ΔC| of an update, relative to ΣC, is below the tolerance.
    The updates minimise \\(\mathrm{tr}(K - 2 K C + C^\top K C)\\), the squared distance between filters and their
    representations in the kernel's feature space. At the minimum, 0, C is the identity and ranks all filters alike; C
    ranks them only because the updates stop early. Memory: three matrices as large as the kernel.

    Args:
        kernel_FF: float32, symmetric, ≥ 0.
        tolerance: α > 0.

    Returns:
        `torch.Tensor` `(F, F)`, ≥ 0; column j holds the shares of all filters in filter j.
    """
    coefficients_FF = torch.full_like(kernel_FF, 1 / len(kernel_FF))
    for _ in range(MAX_UPDATES):
        updated_FF = masking_update(kernel_FF, coefficients_FF)
        # the former coefficients become the difference: a fourth matrix isn't needed
        change = coefficients_FF.sub_(updated_FF).sum().abs()
        coefficients_FF = updated_FF
        if bool(change < tolerance * updated_FF.sum()):
            break
    return coefficients_FF


def masking_update(kernel_FF: torch.Tensor, coefficients_FF: torch.Tensor) -> torch.Tensor:
    r"""One update \\(C \circ \sqrt{K / (K C)}\\), element by element.

    It minimises, for C' before the update, \\(\sum_{ij} (K C')_{ij} C_{ij}^2 / C'_{ij} - 2 K_{ij} C'_{ij} (1 +
    \ln(C_{ij} / C'_{ij}))\\), which is nowhere below the error of [`convex_masking`] less tr K and equal
    to it at C': so the error never rises. Entries of K that are 0 become and stay 0.
    """
    mixed_FF = (kernel_FF @ coefficients_FF).clamp_min_(torch.finfo(kernel_FF.dtype).tiny)  # 0 / 0 is 0 here
    return torch.div(kernel_FF, mixed_FF, out=mixed_FF).sqrt_().mul_(coefficients_FF)


def output_products(activation_products_FF: torch.Tensor, filters_FH: torch.Tensor) -> torch.Tensor:
    r"""Products of the filters' shares \\(a_{ti} w_i\\) of the FFN's output, summed over tokens t and channels.

    A least-squares fit of the output needs only them: \\(P_{ij} = (\sum_t a_{ti} a_{tj}) (w_i \cdot w_j)\\).

    Args:
        activation_products_FF: Σ over tokens of products of activations.
        filters_FH: columns of the FFN's second matrix.

    Returns:
        `torch.Tensor` `(F, F)` float64.
    """
    filters_FH = filters_FH.double()
    return (filters_FH @ filters_FH.T).mul_(activation_products_FF)


def least_squares_scales(products_FF: torch.Tensor, kept_F: torch.Tensor) -> torch.Tensor:
    r"""Factors of the kept filters that best make up for the dropped ones.

    With k kept and d dropped, \\((P_{kk} + \lambda) (m_k - 1) = P_{kd} 1\\) minimises the squared error of
    the FFN's output, \\((m - 1)^\top P (m - 1)\\), plus \\(\lambda \lVert m_k - 1 \rVert^2\\), with λ =
    [`DAMPING`] mean diagonals of P_kk. Factors of 1 are one candidate, so the error never rises.

    Args:
        products_FF: of [`output_products`].
        kept_F: bool, at least one `True`.

    Returns:
        `torch.Tensor` `(F,)` of the products' dtype: 0 for dropped filters; all 1 where none is dropped.

    Example:
    ```python
    >>> products = torch.ones(2, 2, dtype=torch.float64)  # two filters that always do the same
    >>> least_squares_scales(products, torch.tensor([True, False]))
    tensor([1.9990, 0.0000], dtype=torch.float64)

    ```
    """
    # Solved by Cholesky: P_kk plus a positive diagonal is positive definite.
    scales_F = kept_F.to(products_FF.dtype)
    # P_kk, and P_kd 1: what the dropped filters would have added
    rows_KF = products_FF[kept_F]
    system_KK, missing_K = rows_KF[:, kept_F], rows_KF[:, ~kept_F].sum(1)
    # keeps the system regular with filters that are never active
    smallest = torch.finfo(products_FF.dtype).tiny ** 0.5
    system_KK.diagonal().add_(DAMPING * system_KK.diagonal().mean() + smallest)
    # m_k = 1 + (P_kk + λ)⁻¹ P_kd 1
    scales_F[kept_F] += torch.cholesky_solve(missing_K[:, None], torch.linalg.cholesky(system_KK))[:, 0]
    return scales_F
