"""The baselines' terms against loops that spell the formulas out."""

import math
from typing import Any

import pytest
import torch

from homodistil_hf.methods.baselines import relations as baseline_losses
from homodistil_hf.methods.baselines.relations import cosine_error, relation_error

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def drawn(*shape: int, seed: int = 0, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, **options)


def sides(size: int, seed: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return drawn(2, 5, size, seed=seed, **options), drawn(2, 5, size, seed=seed + 1, **options)


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def slow_relation(sides: Any, row: int, head: int, token: int, *, num_heads: int, scaling: float) -> list[float]:
    """How one head of one token is related to every real token."""
    left, right = (side[row].unflatten(-1, (num_heads, -1)).tolist() for side in sides)
    others = [index for index in range(5) if MASK[row, index]]
    return softmax([scaling * sum(map(lambda a, b: a * b, left[token][head], right[o][head])) for o in others])


def slow_error(teacher: Any, student: Any, *, num_heads: int, scalings: tuple[float, float]) -> float:
    total = 0.0
    for row, token in MASK.nonzero().tolist():
        for head in range(num_heads):
            pair = [
                slow_relation(sides, row, head, token, num_heads=num_heads, scaling=scaling)
                for sides, scaling in zip((teacher, student), scalings, strict=True)
            ]
            total += sum(p * math.log(p / q) for p, q in zip(*pair, strict=True)) / num_heads
    return total


@pytest.mark.parametrize("chunk_elements", [1, 1 << 22])
@pytest.mark.parametrize("num_heads", [1, 3])
def test_relations_equal_a_slow_loop(num_heads, chunk_elements, monkeypatch):
    monkeypatch.setattr(baseline_losses, "CHUNK_ELEMENTS", chunk_elements)
    teacher, student = sides(12, seed=0), sides(6, seed=5)
    settings = {"num_heads": num_heads, "scalings": (0.4, 0.7)}
    found = relation_error(teacher, student, token_mask_BT=MASK, **settings)
    assert float(found) == pytest.approx(slow_error(teacher, student, **settings), rel=1e-12)


def test_padding_changes_neither_value_nor_gradient():
    def run(fill: float) -> tuple[torch.Tensor, torch.Tensor]:
        filled = [torch.where(MASK[..., None].bool(), side, fill) for side in (*sides(6, seed=0), *sides(6, seed=5))]
        student = filled[2].requires_grad_()
        settings = {"num_heads": 2, "scalings": (1.0, 1.0), "token_mask_BT": MASK}
        error = relation_error((filled[0], filled[1]), (student, filled[3]), **settings)
        error.backward()
        return error.detach(), student.grad

    (error, gradient), (other_error, other_gradient) = run(0.0), run(3.0)
    assert torch.equal(error, other_error)
    assert torch.equal(gradient, other_gradient)
    assert gradient[1, 3:].abs().max() == 0


@pytest.mark.parametrize("with_itself", [False, True])
def test_gradients_of_relations_are_those_of_the_formula(with_itself):
    teacher = sides(4, seed=0)
    left, right = sides(4, seed=5, requires_grad=True)

    def error(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        student = (left, left) if with_itself else (left, right)
        return relation_error(teacher, student, num_heads=2, scalings=(0.5, 1.5), token_mask_BT=MASK)

    assert torch.autograd.gradcheck(error, (left, right))


def test_equal_relations_are_no_error_and_have_no_gradient():
    left, right = sides(6, seed=3, requires_grad=True)
    error = relation_error((left, right), (left, right), num_heads=3, scalings=(1.0, 1.0))
    error.backward()
    assert float(error.detach()) == 0.0
    assert float(left.grad.abs().max()) == 0.0


def test_relations_of_half_types_are_compared_in_float32():
    teacher, student = ([side.bfloat16() for side in sides(6, seed=seed)] for seed in (0, 5))
    settings = {"num_heads": 2, "scalings": (1.0, 1.0)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = relation_error(tuple(teacher), tuple(student), **settings)
    exact = relation_error(tuple(s.float() for s in teacher), tuple(s.float() for s in student), **settings)
    assert found.dtype is torch.float32
    assert torch.equal(found, exact)


def test_cosines_by_hand():
    teacher = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]])
    student = torch.tensor([[[4.0, 3.0], [-2.0, 0.0], [1.0, 0.0]]], requires_grad=True)
    error = cosine_error(teacher, student, torch.tensor([[1, 1, 0]]))
    assert float(error) == pytest.approx((1 - 24 / 25) + 2.0)
    error.backward()
    # d(1 − cos)/ds = −(t/|t| − cos·s/|s|)/|s|; opposite directions are a maximum.
    expected = torch.tensor([[[-(0.6 - 0.96 * 0.8) / 5, -(0.8 - 0.96 * 0.6) / 5], [0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(student.grad, expected, rtol=0, atol=1e-6)


def test_cosines_of_half_types_are_float32_and_take_an_inference_tensor():
    student = drawn(1, 3, 4).bfloat16().requires_grad_()
    with torch.inference_mode():
        teacher = drawn(1, 3, 4, seed=1).bfloat16()
    error = cosine_error(teacher, student)
    error.backward()
    assert error.dtype is torch.float32
    assert student.grad is not None
