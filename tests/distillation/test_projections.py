import pytest
import torch

from homodistil_hf.distillation.projections import LeastSquares, Projections


def matrices(projections: Projections) -> list[torch.nn.Linear]:
    return [*projections.hidden, *([projections.embedding] if projections.embedding is not None else [])]


def test_identities_change_nothing():
    projections, states = Projections(24, 24, num_hidden_layers=3), torch.randn(2, 5, 24)
    assert len(matrices(projections)) == 4
    for matrix in matrices(projections):
        assert torch.equal(matrix(states), states)


@pytest.mark.parametrize(("student_size", "teacher_size"), [(4, 6), (6, 4)])
def test_between_different_sizes_the_shared_channels_are_kept(student_size, teacher_size):
    projections = Projections(student_size, teacher_size, num_hidden_layers=1)
    states = torch.randn(3, student_size)
    projected = projections.hidden[0](states)
    assert projected.shape == (3, teacher_size)
    assert torch.equal(projected[:, :4], states[:, :4])
    assert projected[:, student_size:].abs().sum() == 0


def test_random_projections_keep_the_scale_of_states():
    projections = Projections(256, 300, num_hidden_layers=2, init="random")
    for matrix in matrices(projections.requires_grad_(False)):
        assert matrix.weight.shape == (300, 256)
        assert float(matrix.weight.std()) == pytest.approx(256**-0.5, rel=0.02)
        assert float(matrix.weight.mean()) == pytest.approx(0.0, abs=1e-3)
        assert float(matrix(torch.randn(500, 256)).std()) == pytest.approx(1.0, rel=0.02)
    first, second = projections.hidden
    assert not torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(("num_rows", "rank"), [(200, 16), (200, 5), (9, 9)], ids=["full", "singular", "few rows"])
def test_sums_of_batches_give_the_solution_of_least_norm(num_rows, rank):
    torch.manual_seed(0)
    own = torch.randn(num_rows, rank) @ torch.randn(rank, 16)
    guide = own @ torch.randn(16, 12) + 0.1 * torch.randn(num_rows, 12)
    found, projections = LeastSquares(), Projections(16, 12, num_hidden_layers=1)
    for part in (slice(0, 4), slice(4, None)):
        states = (torch.cat([state[part], torch.full_like(state[:1], 9.0)])[None] for state in (own, guide))
        is_token = torch.arange(len(own[part]) + 1)[None] < len(own[part])
        found.add(*([state] for state in states), is_token)
    found.fit(projections.hidden)
    expected = torch.linalg.lstsq(own, guide, driver="gelsd").solution
    torch.testing.assert_close(projections.hidden[0].weight.T.detach(), expected, rtol=1e-3, atol=1e-3)
