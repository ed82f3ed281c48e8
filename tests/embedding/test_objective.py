"""Terms of vectors: against slow loops, and how well vectors agree."""

import pytest
import torch
from tiny_embeddings import unit_vectors

from homodistil_hf.embedding.objective import fit_dense, vector_error


def test_the_vector_term_is_twice_what_cosines_lack():
    student, teacher = unit_vectors(seed=1), unit_vectors()
    expected = sum(2 - 2 * float(a @ b) for a, b in zip(student, teacher, strict=True))
    assert float(vector_error(student, teacher)) == pytest.approx(expected)


def test_the_map_is_that_of_least_squares():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    found = fit_dense(states.T @ states, states.T @ target, ridge=0.0)
    assert torch.allclose(found.T, torch.linalg.lstsq(states, target).solution)
    shrunk = fit_dense(states.T @ states, states.T @ target, ridge=10.0)
    assert shrunk.norm() < found.norm()
    alike = states[:, :1].expand(-1, 3)  # three times the same channel
    assert fit_dense(alike.T @ alike, alike.T @ target).isfinite().all()


def test_errors_of_vectors_are_relative_to_their_lengths():
    student, teacher = unit_vectors(seed=1), unit_vectors()
    lengths = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
    assert float(vector_error(lengths * student, lengths * teacher)) == pytest.approx(
        float(vector_error(student, teacher))
    )
    assert vector_error(torch.ones(1, 3), torch.zeros(1, 3)).isfinite()
