import pytest
import torch
from rows import each
from torch import nn

from homodistil_hf.distillation import vocabulary_loss as decoding
from homodistil_hf.distillation.losses import prediction_terms
from homodistil_hf.distillation.vocabulary_loss import Decoder, decoded_terms, decoder_of

MASKED, STUDENT_SIZE, TEACHER_SIZE, WORDS = 11, 5, 6, 17
LABELS = torch.tensor([0, 16, 3, -100, 2, 17, 5, -1, 1, 4, 3])


def decoder(size: int, seed: int, *, dtype: torch.dtype = torch.float64, stored: torch.dtype | None = None) -> Decoder:
    generator = torch.Generator().manual_seed(seed)
    shapes = (MASKED, size), (WORDS, size), (WORDS,)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(stored or dtype) for shape in shapes]
    return Decoder(*[tensor.requires_grad_() for tensor in tensors], dtype)


def in_float64(given: Decoder) -> Decoder:
    return Decoder(*[tensor.detach().double().requires_grad_() for tensor in given[:3]], torch.float64)


def dense_terms(student: Decoder, teacher: Decoder) -> tuple[torch.Tensor, torch.Tensor]:
    logits = [nn.functional.linear(d.states_MH.double(), d.weight_VH.double(), d.bias_V) for d in (student, teacher)]
    return prediction_terms(logits[0], logits[1].detach(), LABELS)


def gradients(terms: tuple[torch.Tensor, torch.Tensor], student: Decoder, weights=(2.0, 3.0)) -> list[torch.Tensor]:
    loss = (weights[0] * terms[0] + weights[1] * terms[1]) / 7
    return [gradient.double() for gradient in torch.autograd.grad(loss, student[:3])]


@pytest.fixture(params=[(1, 1), (17 * 8 * 4, 40), (17 * 8 * 8, 17 * 3), (1 << 28, 1 << 20)], ids=str)
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LOGITS_BYTES", request.param[0])
    monkeypatch.setattr(decoding, "CHUNK_ELEMENTS", {"cpu": request.param[1]})


@pytest.mark.parametrize("weights", [(2.0, 3.0), (1.0, 0.0), (0.0, 0.5), (0.0, 0.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_terms_and_gradients_are_the_dense_ones(dtype, weights, sizes):
    # In half types the parameters are float32, as under autocast.
    stored = torch.float32 if dtype == torch.bfloat16 else dtype
    student = decoder(STUDENT_SIZE, 0, dtype=dtype, stored=stored)
    teacher = decoder(TEACHER_SIZE, 1, dtype=dtype, stored=stored)
    exact = [in_float64(student), in_float64(teacher)]
    terms, expected = decoded_terms(student, teacher, LABELS, weights=weights), dense_terms(*exact)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 3e-2}[dtype]
    assert [term.dtype for term in terms] == [torch.float64 if dtype == torch.float64 else torch.float32] * 2
    torch.testing.assert_close([t.double() for t in terms], list(expected), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        gradients(terms, student, weights), gradients(expected, exact[0], weights), rtol=tolerance, atol=tolerance
    )
    assert [tensor.grad for tensor in teacher[:3]] == [None] * 3


def test_gradients_are_given_for_the_weights_that_were_said():
    student, teacher = decoder(STUDENT_SIZE, 0), decoder(TEACHER_SIZE, 1)
    ce, kl = decoded_terms(student, teacher, LABELS, weights=(1.0, 2.0))
    with pytest.raises(RuntimeError, match=r"CE and KL do not stand in the loss as weights=\(1.0, 2.0\) said"):
        (ce + kl).backward()


@each("bad", [float("nan"), float("inf")])
@each("term", [0, 1])
def test_what_is_not_finite_stays_so(term, bad):
    student = decoder(STUDENT_SIZE, 0)
    (decoded_terms(student, decoder(TEACHER_SIZE, 1), LABELS)[term] * bad).backward()
    assert not bool(student.weight_VH.grad.isfinite().any())


def test_without_gradients_nothing_is_kept_and_nothing_differs():
    student, teacher = decoder(STUDENT_SIZE, 0), decoder(TEACHER_SIZE, 1)
    with torch.no_grad():
        quiet = decoded_terms(student, teacher, LABELS)
    assert not quiet[0].requires_grad
    torch.testing.assert_close(quiet, tuple(term.detach() for term in decoded_terms(student, teacher, LABELS)))


def test_what_is_frozen_gets_no_gradient():
    student, teacher = decoder(STUDENT_SIZE, 0), decoder(TEACHER_SIZE, 1)
    student.weight_VH.requires_grad_(False)
    whole = decoder(STUDENT_SIZE, 0)
    sum(decoded_terms(student, teacher, LABELS)).backward()
    sum(decoded_terms(whole, teacher, LABELS)).backward()
    assert student.weight_VH.grad is None
    torch.testing.assert_close(student.states_MH.grad, whole.states_MH.grad)
    torch.testing.assert_close(student.bias_V.grad, whole.bias_V.grad)


def test_no_masked_token_costs_nothing(sizes):
    student, teacher = decoder(STUDENT_SIZE, 0), decoder(TEACHER_SIZE, 1)
    none = [d._replace(states_MH=d.states_MH.detach()[:0].requires_grad_()) for d in (student, teacher)]
    ce, kl = decoded_terms(*none, torch.zeros(0, dtype=torch.int64))
    (ce + kl).backward()
    assert (float(ce.detach()), float(kl.detach())) == (0.0, 0.0)
    assert none[0].states_MH.grad.shape == (0, STUDENT_SIZE)
    assert float(student.weight_VH.grad.abs().sum()) == 0


def test_a_decoder_has_no_bias_or_one_word():
    student = Decoder(torch.ones(3, 2, requires_grad=True), torch.ones(1, 2, requires_grad=True), None, torch.float32)
    ce, kl = decoded_terms(student, student, torch.zeros(3, dtype=torch.int64))
    (ce + kl).backward()
    assert (float(ce.detach()), float(kl.detach())) == (0.0, 0.0)
    assert float(student.states_MH.grad.abs().sum()) == 0


def test_a_gradient_scalers_factor_passes_through_where_a_half_would_underflow():
    student, teacher = decoder(STUDENT_SIZE, 0, dtype=torch.float16), decoder(TEACHER_SIZE, 1, dtype=torch.float16)
    student = student._replace(weight_VH=student.weight_VH.detach().float().requires_grad_())
    plain = torch.autograd.grad(sum(decoded_terms(student, teacher, LABELS)), [student.weight_VH])[0]
    tiny = torch.autograd.grad(sum(decoded_terms(student, teacher, LABELS)) * 1e-9, [student.weight_VH])[0]
    torch.testing.assert_close(tiny * 1e9, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("lowers", [False, True])
def test_the_type_of_the_product_is_autocasts(lowers):
    layer, states = nn.Linear(4, 9), torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=lowers):
        found = decoder_of(layer, states)
        assert decoder_of(layer, states.double()).dtype == torch.float64
        assert decoder_of(layer, states, dtype=torch.float16).dtype == torch.float16
    assert found.dtype == (torch.bfloat16 if lowers else torch.float32)
    assert found.weight_VH is layer.weight
    assert found.bias_V is layer.bias


@pytest.mark.parametrize("sizes", [(1 << 20, 1 << 15)], indirect=True)
@pytest.mark.parametrize("num_words", [1_000, 8_000])
def test_temporaries_stay_under_their_size_whatever_the_vocabulary(num_words, sizes):
    states = torch.randn(500, 8)
    student = Decoder(states, torch.randn(num_words, 8, requires_grad=True), None, torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        ce, kl = decoded_terms(student, student, torch.zeros(500, dtype=torch.int64))
        (ce + kl).backward()
    events = sorted(
        (event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"),
        key=lambda event: event.start_ns(),
    )
    allocated = peak = 0
    for event in events:
        allocated += event.nbytes()
        peak = max(peak, allocated)
    own = 2 * student.weight_VH.numel() * 4  # the gradient, which is given away as it is, and one product
    assert 1 << 19 < peak < own + (1 << 20) + 5 * (1 << 15) * 4 + (1 << 16)
    assert peak < 500 * num_words * 4
