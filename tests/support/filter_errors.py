r"""Errors that gradient-free pruning minimises, written as in the papers; F filters."""

import torch


def representation_error(kernel_FF: torch.Tensor, coefficients_FF: torch.Tensor) -> torch.Tensor:
    r"""The loss of kernelized convex masking: \\(\mathrm{tr}(K - 2 K C + C^\top K C)\\)."""
    return kernel_FF.trace() + (coefficients_FF * (kernel_FF @ coefficients_FF - 2 * kernel_FF)).sum()


def output_error(products_FF: torch.Tensor, scales_F: torch.Tensor) -> torch.Tensor:
    r"""Squared error of the FFN's output with filter i multiplied by m_i: \\((m - 1)^\top P (m - 1)\\)."""
    change_F = scales_F.to(products_FF.dtype) - 1
    return change_F @ products_FF @ change_F
