"""Kernelized convex masking and the least-squares fit, beside slow loops and their limits."""

import math
from itertools import pairwise

import pytest
import torch
from filter_errors import output_error, representation_error
from rows import each

from homodistil_hf.methods.gradient_free import representatives
from homodistil_hf.methods.gradient_free.representatives import (
    convex_masking,
    gaussian_kernel,
    least_squares_scales,
    masking_update,
    output_products,
)


def filters(num_filters=12, num_channels=5, *, std=0.5, dtype=torch.float64):
    return torch.randn(num_filters, num_channels, generator=torch.Generator().manual_seed(0), dtype=dtype) * std


def kernel(**settings):
    return gaussian_kernel(filters(**settings), sigma=1.0)


def test_the_kernel_is_that_of_a_slow_loop():
    rows = filters()
    found = gaussian_kernel(rows, sigma=2.0)
    for i, one in enumerate(rows.tolist()):
        for j, other in enumerate(rows.tolist()):
            distance = sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
            assert float(found[i, j]) == pytest.approx(math.exp(-distance / 4.0), rel=1e-9)
    assert bool((found.diagonal() == 1).all())


def test_an_update_is_that_of_a_slow_loop():
    kernel_FF = kernel()
    coefficients = torch.rand(12, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = masking_update(kernel_FF, coefficients)
    for i in range(12):
        for j in range(12):
            mixed = sum(float(kernel_FF[i, k] * coefficients[k, j]) for k in range(12))
            expected = float(coefficients[i, j]) * math.sqrt(float(kernel_FF[i, j]) / mixed)
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-12)


@each("std", [0.1, 0.5, 3.0])
def test_coefficients_stay_non_negative_and_the_error_never_rises(std):
    kernel_FF = kernel(std=std)
    coefficients = torch.full_like(kernel_FF, 1 / 12)
    errors = [float(representation_error(kernel_FF, coefficients))]
    for _ in range(200):
        coefficients = masking_update(kernel_FF, coefficients)
        assert bool((coefficients >= 0).all())
        errors.append(float(representation_error(kernel_FF, coefficients)))
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(errors))
    assert errors[-1] < errors[0]


def test_filters_that_are_left_to_converge_represent_themselves():
    kernel_FF = kernel(std=1.0)
    coefficients = torch.full_like(kernel_FF, 1 / 12)
    for _ in range(5000):
        coefficients = masking_update(kernel_FF, coefficients)
    torch.testing.assert_close(coefficients, torch.eye(12, dtype=torch.float64), atol=1e-3, rtol=0)


def test_stops_at_the_first_change_below_the_tolerance():
    kernel_FF, tolerance = kernel(), 0.01
    expected = torch.full_like(kernel_FF, 1 / 12)
    changes = []
    while not changes or changes[-1] >= tolerance:
        updated = masking_update(kernel_FF, expected)
        changes.append(float((updated - expected).sum().abs() / updated.sum()))
        expected = updated
    assert torch.equal(convex_masking(kernel_FF, tolerance=tolerance), expected)


def test_duplicated_filters_share_their_rank():
    rows = filters(std=3.0, dtype=torch.float32)  # far from each other
    ranks = convex_masking(gaussian_kernel(torch.cat([rows, rows[:3]]), sigma=1.0)).diagonal()
    torch.testing.assert_close(ranks[:3], ranks[12:], rtol=1e-4, atol=0)
    torch.testing.assert_close(ranks[:3], torch.full((3,), 0.5), rtol=0, atol=0.05)
    torch.testing.assert_close(ranks[3:12], torch.ones(9), rtol=0, atol=0.05)


def test_filters_without_any_neighbour_are_no_reason_for_nan():
    kernel_FF = gaussian_kernel(torch.tensor([[0.0], [100.0], [100.1]]), sigma=1.0)
    coefficients = convex_masking(kernel_FF, tolerance=1e-6)
    assert bool(coefficients.isfinite().all())
    assert float(coefficients[0, 0]) == pytest.approx(1, abs=1e-3)


@pytest.fixture
def layer():
    """Activations of 40 tokens, 12 filters, what is kept of them, and the products of their shares."""
    activations = torch.randn(40, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64).relu()
    kept = torch.arange(12) % 3 > 0
    return activations, filters(), kept, output_products(activations.T @ activations, filters())


def test_the_fit_is_that_of_the_stored_activations(layer, monkeypatch):
    activations, rows, kept, products = layer
    shares = (activations[:, :, None] * rows).permute(0, 2, 1).flatten(0, 1)  # (tokens · channels, filters)
    expected = torch.linalg.lstsq(shares[:, kept], shares.sum(1)[:, None]).solution[:, 0]
    monkeypatch.setattr(representatives, "DAMPING", 1e-12)
    found = least_squares_scales(products, kept)
    torch.testing.assert_close(found[kept], expected, rtol=1e-6, atol=1e-6)
    assert bool((found[~kept] == 0).all())


@pytest.mark.parametrize("damping", [1e-9, 1e-3, 1.0, 1e6])
def test_rescaling_never_raises_the_error(layer, damping, monkeypatch):
    *_, kept, products = layer
    monkeypatch.setattr(representatives, "DAMPING", damping)
    scales = least_squares_scales(products, kept)
    assert float(output_error(products, scales)) <= float(output_error(products, kept.double())) * (1 + 1e-12)


def test_nothing_is_rescaled_where_nothing_is_dropped(layer):
    assert bool((least_squares_scales(layer[-1], torch.ones(12, dtype=torch.bool)) == 1).all())


def test_filters_that_are_never_active_are_left_alone():
    products = torch.zeros(3, 3, dtype=torch.float64)
    assert least_squares_scales(products, torch.tensor([True, True, False])).tolist() == [1, 1, 0]
