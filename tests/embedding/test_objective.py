"""Terms of vectors: against slow loops, and how well vectors agree."""

import pytest
import torch
from rows import each
from torch.nn import functional as F

from homodistil_hf.embedding.metrics import SIMILARITIES, agreement, similarities
from homodistil_hf.embedding.objective import fit_dense, vector_error


def unit_vectors(num_rows=6, size=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(num_rows, size, generator=generator, dtype=torch.float64), dim=-1)


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


def test_agreement_counts_neighbours_one_by_one():
    student, teacher = unit_vectors(400, seed=1), unit_vectors(400)  # more rows than are compared at a time
    student = F.normalize(student + 2 * teacher, dim=-1)
    found = agreement(student, teacher)

    def nearest(queries, index, text):
        similarities = queries[text] @ index.T
        similarities[text] = -2
        return set(similarities.topk(10).indices.tolist())

    texts = range(len(teacher))
    own = sum(len(nearest(student, student, i) & nearest(teacher, teacher, i)) for i in texts)
    in_index = sum(len(nearest(student, teacher, i) & nearest(teacher, teacher, i)) for i in texts)
    assert found["neighbours"] == pytest.approx(own / 4000)
    assert found["neighbours_in_index"] == pytest.approx(in_index / 4000)
    assert found["cosine"] == pytest.approx(float((student * teacher).sum(-1).mean()))
    others = ~torch.eye(400, dtype=torch.bool)
    spreads = [(vectors @ vectors.T)[others].std(unbiased=False) for vectors in (student, teacher)]
    assert found["spread"] == pytest.approx(float(spreads[0] / spreads[1]))
    collapsed = unit_vectors(1).expand(400, -1)
    assert agreement(collapsed, teacher)["spread"] == pytest.approx(0.0, abs=1e-6)
    assert agreement(student[:1], teacher[:1]) == {}


@pytest.mark.parametrize("vectors", [torch.eye(2, 5), torch.ones(4, 5)])
def test_similarities_that_are_all_the_same_have_no_spread(vectors):
    """Two held-out texts have one similarity: nothing has collapsed."""
    found = agreement(vectors + 0.1 * torch.randn_like(vectors), vectors)
    assert found.keys() == {"cosine", "neighbours", "neighbours_in_index"}


@each("name", SIMILARITIES)
def test_neighbours_are_nearest_by_the_models_own_similarity(name):
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(40, 4, generator=generator, dtype=torch.float64).exp()  # of very different lengths
    student = teacher + 0.3 * torch.randn(40, 4, generator=generator, dtype=torch.float64)
    found = agreement(student, teacher, similarity=name)

    def nearest(queries, index, text):
        values = similarities(queries, index, name)[text]
        values[text] = -torch.inf
        return set(values.topk(10).indices.tolist())

    shared = [len(nearest(student, teacher, i) & nearest(teacher, teacher, i)) for i in range(40)]
    assert found["neighbours_in_index"] == pytest.approx(sum(shared) / 400)


def test_errors_of_vectors_are_relative_to_their_lengths():
    student, teacher = unit_vectors(seed=1), unit_vectors()
    lengths = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
    assert float(vector_error(lengths * student, lengths * teacher)) == pytest.approx(
        float(vector_error(student, teacher))
    )
    assert vector_error(torch.ones(1, 3), torch.zeros(1, 3)).isfinite()
