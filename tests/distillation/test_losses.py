import math

import pytest
import torch
from rows import each
from students import make_batch, unlabelled
from tiny_embeddings import unit_vectors
from tiny_models import make_teacher

from homodistil_hf.data.masking import UNKNOWN_VALUE
from homodistil_hf.distillation import losses
from homodistil_hf.distillation.losses import (
    attention_error,
    attention_scores,
    hidden_error,
    hidden_errors,
    multi_label_terms,
    prediction_terms,
    regression_terms,
    vector_error,
)

HALF = (torch.bfloat16, torch.float16)
DTYPES = each("dtype", [torch.float64, torch.float32, *HALF])


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rel": 1e-12, "abs": 1e-12} if dtype == torch.float64 else {"rel": 2e-5, "abs": 1e-5}


# Cross-entropy and KL of rows of logits


def slow_terms(student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Row by row, class by class, in float64."""
    ce = kl = torch.zeros((), dtype=torch.float64)
    for s, t, label in zip(student.double(), teacher.double(), labels.tolist(), strict=True):
        log_s = s - s.exp().sum().log()
        log_t = t - t.exp().sum().log()
        if 0 <= label < len(s):
            ce = ce - log_s[label]
        for c in range(len(s)):
            kl = kl + log_t[c].exp() * (log_t[c] - log_s[c])
    return [ce, kl]


@DTYPES
def test_prediction_terms_are_the_formulas(dtype):
    student, teacher = normal(11, 7, dtype=dtype).requires_grad_(), normal(11, 7, dtype=dtype, seed=1).requires_grad_()
    labels = torch.tensor([0, 6, 3, -100, 2, 7, 5, -1, 1, 4, 3])
    ce, kl = prediction_terms(student, teacher, labels)
    assert ce.dtype == kl.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = student.detach().double().requires_grad_()
    slow_ce, slow_kl = slow_terms(exact, teacher.detach(), labels)
    assert float(ce.detach()) == pytest.approx(float(slow_ce.detach()), **tolerance(dtype))
    assert float(kl.detach()) == pytest.approx(float(slow_kl.detach()), **tolerance(dtype))
    (2 * ce + 3 * kl).backward()
    (2 * slow_ce + 3 * slow_kl).backward()
    assert student.grad.dtype == dtype
    assert teacher.grad is None
    rounding = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(student.grad.double(), exact.grad, rtol=rounding, atol=rounding)


def test_gradients_agree_with_finite_differences():
    teacher, labels = normal(5, 4, seed=1), torch.tensor([0, 3, -100, 1, 2])
    student = normal(5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: prediction_terms(logits, teacher, labels), student)


@DTYPES
def test_equal_logits_have_no_divergence(dtype):
    logits = normal(9, 50, dtype=dtype).requires_grad_()
    kl = prediction_terms(logits, logits.detach().clone(), torch.zeros(9, dtype=torch.int64))[1]
    kl.backward()
    assert float(kl.detach()) == 0
    assert float(logits.grad.abs().max()) < 1e-6


def test_huge_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    ce, kl = prediction_terms(student, torch.tensor([[-1e4, 1e4, 0.0]]), torch.tensor([0]))
    (ce + kl).backward()
    assert (float(ce.detach()), float(kl.detach())) == (0.0, 2e4)
    assert student.grad.tolist() == [[1.0, -1.0, 0.0]]


@pytest.mark.parametrize("labels", [[], [-100, -100, -100]], ids=["no rows", "no labels"])
def test_nothing_labelled_costs_nothing(labels):
    student = normal(len(labels), 4).requires_grad_()
    ce, kl = prediction_terms(student, student.detach(), torch.tensor(labels, dtype=torch.int64))
    (ce + kl).backward()
    assert (float(ce.detach()), float(kl.detach())) == (0.0, 0.0)
    assert student.grad.shape == student.shape
    assert float(student.grad.abs().sum()) < 1e-14  # Σ p_t is 1 up to rounding


def test_halves_are_computed_in_float32_inside_autocast_too():
    student, teacher = normal(64, 50, dtype=torch.bfloat16), normal(64, 50, dtype=torch.bfloat16, seed=1)
    labels = torch.arange(64) % 50
    expected = prediction_terms(student.float(), teacher.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = prediction_terms(student, teacher, labels)
    assert [float(term) for term in terms] == [float(term) for term in expected]


# Regression and several labels


def test_regression_by_hand():
    student = torch.tensor([[1.0], [4.0]], dtype=torch.float64, requires_grad=True)
    error, kl = regression_terms(student, torch.tensor([[0.0], [7.0]]), torch.tensor([[3.0], [4.5]]))
    assert (float(error), float(kl)) == (4 + 0.25, 0.5 * (1 + 9))
    (error + kl).backward()
    assert student.grad.tolist() == [[2 * -2 + 1.0], [2 * -0.5 - 3.0]]


@pytest.mark.parametrize("terms", [regression_terms, multi_label_terms])
def test_unknown_values_have_a_distance_from_the_teacher_and_no_loss(terms):
    student, teacher = normal(4, 2).requires_grad_(), normal(4, 2, seed=1)
    labels = torch.tensor([[1.0, 0.0], [UNKNOWN_VALUE] * 2] * 2, dtype=torch.float64)
    own, kl = terms(student, teacher, labels)
    known, _ = terms(student[::2], teacher[::2], labels[::2])
    assert float(own) == pytest.approx(float(known))
    assert float(kl) == pytest.approx(float(terms(student, teacher, torch.zeros(4, 2))[1]))
    own.backward()
    assert student.grad[1::2].abs().max() == 0 < student.grad[::2].abs().min()


def test_regression_of_several_values_is_averaged_over_them():
    student, teacher, labels = normal(6, 3), normal(6, 3, seed=1), normal(6, 3, seed=2)
    error, kl = regression_terms(student, teacher, labels)
    assert float(error) == pytest.approx(6 * float((student - labels).square().mean()))
    assert float(kl) == pytest.approx(6 * float(0.5 * (student - teacher).square().mean()))


def test_several_labels_by_hand():
    # p_t = ¾ and ½, p_s = ½ and ¼
    student, teacher = torch.tensor([[0.0, -math.log(3.0)]]), torch.tensor([[math.log(3.0), 0.0]])
    loss, kl = multi_label_terms(student, teacher, torch.tensor([[1, 0]]))
    assert float(loss) == pytest.approx((-math.log(0.5) - math.log(0.75)) / 2)
    first = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    second = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert float(kl) == pytest.approx((first + second) / 2)


def test_the_kl_of_several_labels_is_that_of_bernoullis():
    student, teacher, labels = normal(5, 4).requires_grad_(), normal(5, 4, seed=1), torch.ones(5, 4)
    distributions = [torch.distributions.Bernoulli(logits=logits) for logits in (teacher, student)]
    expected = torch.distributions.kl_divergence(*distributions).sum() / 4
    loss, kl = multi_label_terms(student, teacher, labels)
    assert float(kl) == pytest.approx(float(expected))
    assert float(loss) == pytest.approx(float(-student.sigmoid().log().sum() / 4))
    exact = student.detach().clone().requires_grad_()
    kl.backward()
    of_exact = torch.distributions.kl_divergence(distributions[0], torch.distributions.Bernoulli(logits=exact))
    (of_exact.sum() / 4).backward()
    torch.testing.assert_close(student.grad, exact.grad)


@each("terms", [regression_terms, multi_label_terms])
@each("dtype", HALF)
def test_other_terms_are_computed_in_float32_and_teach_only_the_student(terms, dtype):
    student, teacher = normal(5, 3, dtype=dtype).requires_grad_(), normal(5, 3, dtype=dtype, seed=1).requires_grad_()
    labels = torch.ones(5, 3)
    results = terms(student, teacher, labels)
    expected = terms(student.detach().float(), teacher.detach().float(), labels)
    assert [result.dtype for result in results] == [torch.float32] * 2
    assert [float(result) for result in results] == [float(value) for value in expected]
    sum(results).backward()
    assert teacher.grad is None
    assert student.grad.dtype == dtype


@pytest.mark.parametrize("terms", [regression_terms, multi_label_terms])
def test_other_terms_are_zero_between_equals(terms):
    logits = normal(5, 3)
    assert float(terms(logits, logits.clone(), torch.ones(5, 3))[1]) == pytest.approx(0.0, abs=1e-15)


# Hidden states and attention scores


@pytest.mark.parametrize("padded", [False, True])
def test_hidden_error_is_the_loop_over_real_tokens(padded):
    teacher, student = normal(3, 5, 4), normal(3, 5, 4, seed=1).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]) if padded else None
    expected = sum(
        (teacher[b, t, h] - student[b, t, h]) ** 2 / 4
        for b in range(3)
        for t in range(5)
        for h in range(4)
        if mask is None or mask[b, t]
    )
    error = hidden_error(teacher, student, mask)
    assert float(error) == pytest.approx(float(expected))
    (gradient,) = torch.autograd.grad(error, student)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0])
    if padded:
        assert gradient[mask == 0].abs().max() == 0


@pytest.mark.parametrize("padded", [False, True])
def test_attention_error_is_the_loop_over_real_pairs(padded):
    teacher, student = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1).requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]) if padded else None
    expected = sum(
        (teacher[b, n, q, k] - student[b, n, q, k]) ** 2 / 3
        for b in range(2)
        for n in range(3)
        for q in range(4)
        for k in range(4)
        if mask is None or (mask[b, q] and mask[b, k])
    )
    error = attention_error(teacher, student, mask)
    assert float(error) == pytest.approx(float(expected))
    (gradient,) = torch.autograd.grad(error, student)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, student)[0])


@each("function", [hidden_error, attention_error])
@each("dtype", HALF)
def test_errors_of_halves_are_summed_in_float32(function, dtype):
    teacher, student = (normal(2, 2, 64, 64, dtype=dtype, seed=seed) for seed in (0, 1))
    error = function(teacher, student)
    assert error.dtype == torch.float32
    assert float(error) == pytest.approx(float(function(teacher.double(), student.double())), rel=1e-5)


@pytest.mark.parametrize("padded", [False, True])
def test_attention_scores_are_those_that_stock_bert_puts_into_its_softmax(padded):
    teacher = make_teacher()
    teacher.set_attn_implementation("eager")
    attention = teacher.bert.encoder.layer[1].attention.self
    seen: dict[str, torch.Tensor] = {}
    for name in ("query", "key"):
        getattr(attention, name).register_forward_hook(lambda module, args, out, name=name: seen.update({name: out}))
    inputs = unlabelled(make_batch()) if padded else {"input_ids": make_batch()["input_ids"]}
    with torch.no_grad():
        shares = teacher(**inputs, output_attentions=True).attentions[1]
    scores = attention_scores(seen["query"], seen["key"], num_heads=4, scaling=8**-0.5)
    assert scores.shape == shares.shape == (4, 4, 12, 12)
    is_padding = inputs.get("attention_mask", torch.ones(4, 12))[:, None, None, :] == 0
    torch.testing.assert_close(scores.masked_fill(is_padding, -math.inf).softmax(-1), shares, rtol=0, atol=1e-6)


def test_relative_errors_are_those_of_tokens_brought_to_one_size():
    teacher, projected = 30 * normal(2, 5, 8, dtype=torch.float64), normal(2, 5, 8, dtype=torch.float64, seed=1)
    projected.requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    found = hidden_error(teacher, projected, mask, is_relative=True)
    expected = sum(
        (teacher[b, t] - projected[b, t]).square().sum() / teacher[b, t].square().sum()
        for b, t in mask.nonzero().tolist()
    )
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    gradients = [torch.autograd.grad(loss, projected)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
    parts = [hidden_error(teacher[b : b + 1], projected[b : b + 1], mask[b : b + 1], is_relative=True) for b in (0, 1)]
    assert float(sum(parts).detach()) == pytest.approx(float(found.detach()), rel=1e-12)  # whatever is in the batch


@pytest.mark.parametrize("is_relative", [False, True])
@pytest.mark.parametrize("num_at_once", [2, 3, 5])
def test_layers_that_are_compared_at_once_have_the_errors_and_gradients_of_each(monkeypatch, num_at_once, is_relative):
    teacher, mask = [normal(2, 6, 8, seed=i) for i in range(5)], torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    factors = torch.arange(1.0, 6.0)  # as of layers that leave

    def of_all() -> tuple[torch.Tensor, ...]:
        states, matrices = normal(5, 2, 6, 7, seed=9).requires_grad_(), normal(5, 8, 7, seed=10).requires_grad_()
        found = torch.stack(
            hidden_errors(list(zip(teacher, states, matrices, strict=True)), mask, is_relative=is_relative)
        )
        (factors * found).sum().backward()
        return found.detach(), states.grad, matrices.grad

    one_by_one = of_all()
    monkeypatch.setitem(losses.LAYERS_ELEMENTS, "cpu", num_at_once * 2 * 6 * 8)
    for found, expected in zip(of_all(), one_by_one, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert hidden_errors([]) == []


# Vectors of texts


def test_the_vector_term_is_twice_what_cosines_lack():
    student, teacher = unit_vectors(seed=1), unit_vectors()
    expected = sum(2 - 2 * float(a @ b) for a, b in zip(student, teacher, strict=True))
    assert float(vector_error(student, teacher)) == pytest.approx(expected)


def test_errors_of_vectors_are_relative_to_their_lengths():
    student, teacher = unit_vectors(seed=1), unit_vectors()
    lengths = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
    assert float(vector_error(lengths * student, lengths * teacher)) == pytest.approx(
        float(vector_error(student, teacher))
    )
    assert vector_error(torch.ones(1, 3), torch.zeros(1, 3)).isfinite()
