import pytest
import torch
from tiny_models import make_teacher
from torch import nn

from homodistil_hf.models import half_attention as attention
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.half_attention import HALF_CPU_ATTENTION, half_cpu_attention

BATCH, TOKENS, HEADS, SIZE = 5, 7, 3, 4


def projections(dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(BATCH, TOKENS, HEADS * SIZE, generator=generator, dtype=torch.float64) for _ in range(3)]
    return [tensor.to(dtype).requires_grad_() for tensor in tensors]


def by_heads(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.unflatten(-1, (HEADS, SIZE)).transpose(1, 2)


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    scores = (query @ key.transpose(2, 3)) * 0.3
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.fixture(params=[None, [7, 7, 3, 1, 5]], ids=["full", "padded"])
def mask(request: pytest.FixtureRequest) -> torch.Tensor | None:
    if request.param is None:
        return None
    lengths = torch.tensor(request.param)
    return (torch.arange(TOKENS) < lengths[:, None])[:, None, None, :].expand(-1, 1, TOKENS, -1)


@pytest.mark.parametrize("chunk_elements", [1, 2 * HEADS * TOKENS**2, 1 << 20], ids=["one", "ragged", "whole"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_values_and_gradients_are_those_of_plain_attention(dtype, chunk_elements, mask, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_ELEMENTS", chunk_elements)
    fast, slow = projections(dtype), [tensor.detach().double().requires_grad_() for tensor in projections(dtype)]
    output, weights = half_cpu_attention(nn.Module(), *map(by_heads, fast), mask, scaling=0.3)
    expected = plain(*map(by_heads, slow), mask)
    assert weights is None
    assert output.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)
    upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    output.backward(upstream.to(dtype))
    expected.backward(upstream.to(dtype).double())
    for mine, reference in zip(fast, slow, strict=True):
        torch.testing.assert_close(mine.grad.double(), reference.grad, rtol=tolerance, atol=3 * tolerance)


def test_gradients_agree_with_finite_differences(mask):
    inputs = [by_heads(tensor).detach().requires_grad_() for tensor in projections(torch.float64)]
    assert torch.autograd.gradcheck(
        lambda *tensors: half_cpu_attention(nn.Module(), *tensors, mask, scaling=0.3)[0], inputs, fast_mode=True
    )


def test_dropout_drops_the_same_probabilities_forward_and_backward():
    query, key, value = (by_heads(tensor) for tensor in projections(torch.float64))

    def attend(values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return half_cpu_attention(nn.Module(), query, key, values, None, scaling=0.3, dropout=0.5)[0]

    assert not torch.equal(attend(value), half_cpu_attention(nn.Module(), query, key, value, None, scaling=0.3)[0])
    # Linear in the values: a gradient that went through another draw would not fit.
    ((gradient),) = torch.autograd.grad(attend(value).square().sum() / 2, [value])
    (jacobian_product,) = torch.autograd.grad(attend(value), [value], grad_outputs=attend(value))
    torch.testing.assert_close(gradient, jacobian_product)
    torch.manual_seed(3)
    inputs = [tensor.detach().requires_grad_() for tensor in (query, key, value)]

    def seeded(*tensors: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return half_cpu_attention(nn.Module(), *tensors, None, scaling=0.3, dropout=0.5)[0]

    assert torch.autograd.gradcheck(seeded, inputs, fast_mode=True)


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    query = key = torch.zeros(64, 4, 16, 8, dtype=torch.float64)
    value = torch.ones(64, 4, 16, 8, dtype=torch.float64)
    output = half_cpu_attention(nn.Module(), query, key, value, None, dropout=0.25)[0]
    assert float(output.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("padded", [False, True])
def test_a_model_gives_the_same_states_with_it_as_with_plain_attention(padded):
    model = to_student(make_teacher()).eval()
    tokens = torch.arange(12).view(2, 6) + 5
    padding = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]) if padded else None
    model.set_attn_implementation("eager")
    expected = model(input_ids=tokens, attention_mask=padding).logits
    model.set_attn_implementation(HALF_CPU_ATTENTION)
    logits = model(input_ids=tokens, attention_mask=padding).logits
    real = torch.ones_like(tokens) if padding is None else padding
    torch.testing.assert_close(logits[real.bool()], expected[real.bool()], rtol=1e-5, atol=1e-5)


def test_under_autocast_it_computes_in_the_type_it_is_given():
    halves = [by_heads(tensor) for tensor in projections(torch.bfloat16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = half_cpu_attention(nn.Module(), *halves, None)[0]
        exact = half_cpu_attention(nn.Module(), *[half.float() for half in halves], None)[0]
    assert torch.equal(inside, half_cpu_attention(nn.Module(), *halves, None)[0])
    assert exact.dtype == torch.float32
