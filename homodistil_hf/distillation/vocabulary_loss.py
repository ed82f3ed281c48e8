"""The prediction terms of a masked-LM head, computed without ever holding all its logits.

The vocabulary is by far the widest layer of a small encoder. Decoder, cross-entropy, KL and their gradients are
computed together for some rows at a time. Only the gradients of the decoder's inputs and parameters are kept until the
backward pass. So memory does not grow with predictions × vocabulary, and nothing is computed twice. losses.py has the
terms for logits that exist already.

Shapes: M predictions (masked positions), H hidden, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import nn

from ..models.chunks import slices
from .losses import exact_dtype

LOGITS_BYTES = 1 << 28
"""Logits of teacher and student that are held at a time: 256 MB for any number of predictions and words."""

CHUNK_ELEMENTS = {"cpu": 1 << 18}
"""Logits that are held in float32 at a time, four such temporaries: on a CPU few enough for its cache."""

OTHER_CHUNK_ELEMENTS = 1 << 26
"""The same on other devices, where every chunk costs the start of some kernels: `LOGITS_BYTES` in bfloat16."""


class Decoder(NamedTuple):
    """The last step of a masked-LM head: logits = states·Wᵀ + b.

    Args:
        states_MH: the decoder's inputs.
        weight_VH: its matrix.
        bias_V: its bias, or None.
        dtype: type of the matrix product.
    """

    states_MH: torch.Tensor
    weight_VH: torch.Tensor
    bias_V: torch.Tensor | None
    dtype: torch.dtype


def decoder_of(layer: nn.Module, states_MH: torch.Tensor, *, dtype: torch.dtype | None = None) -> Decoder:
    """Return the [`Decoder`] of a layer and its inputs.

    Args:
        layer: the linear layer that makes logits.
        states_MH: its inputs.
        dtype: type of the matrix product; default: autocast's, else the inputs' own.
    """
    device = states_MH.device.type
    # autocast leaves float64 as it is
    lowers = torch.is_autocast_enabled(device) and states_MH.dtype != torch.float64
    default = torch.get_autocast_dtype(device) if lowers else states_MH.dtype
    weight: Any = layer.weight
    bias: Any = layer.bias
    return Decoder(states_MH, weight, bias, dtype or default)


def decoded_terms(
    student: Decoder, teacher: Decoder, labels_M: torch.Tensor, *, weights: tuple[float, float] = (1.0, 1.0)
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy with the labels and KL(teacher ‖ student), summed over predictions; see [`prediction_terms`].

    Args:
        student: gets gradients.
        teacher: gets none.
        labels_M: int64 words; rows with a label outside [0, V) add nothing to the cross-entropy, but count in KL.
        weights: `(a, b)`: in the loss the two terms stand as s·(a·CE + b·KL) with one s. The gradient is computed
            along with the terms, so a and b must be known beforehand. A backward pass with another ratio raises.

    Returns:
        `(CE, KL)`: scalars, float32 (float64 for float64 states).

    Example:
    ```python
    >>> states, weight = torch.tensor([[2.0, 0.0]]), torch.eye(2)
    >>> head = Decoder(states, weight, None, torch.float32)
    >>> ce, kl = decoded_terms(head, head, torch.tensor([0]))
    >>> round(float(ce), 4), float(kl)
    (0.1269, 0.0)

    ```
    """
    # Gradients are computed along with the terms, so whether any is needed must be decided before.
    learns = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in student if not isinstance(tensor, torch.dtype)
    )
    frozen = Decoder(*(t.detach() if isinstance(t, torch.Tensor) else t for t in teacher))  # type: ignore[arg-type]
    return _DecodedTerms.apply(*student[:3], student.dtype, frozen, labels_M, weights if learns else None)


class _DecodedTerms(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_MH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        dtype: torch.dtype,
        teacher: Decoder,
        labels_M: torch.Tensor,
        weights: tuple[float, float] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # Autocast is off, because both decoders name the type of their matrix product.
        with torch.autocast(states_MH.device.type, enabled=False):
            student, teacher = _lowered(Decoder(states_MH, weight_VH, bias_V, dtype)), _lowered(teacher)
            # Chunks of rows whose logits fit; each adds its terms, and its gradients as soon as its logits are there.
            bytes_per_row = len(weight_VH) * (student.dtype.itemsize + teacher.dtype.itemsize)
            chunks = slices(len(states_MH), LOGITS_BYTES // bytes_per_row)
            terms = torch.zeros(2, dtype=exact_dtype(states_MH), device=states_MH.device)
            gradient = _Gradient(student, wanted=ctx.needs_input_grad[:3], num_chunks=len(chunks))
            for rows in chunks:
                logits_RV, biases = _product(student, rows), (student.bias_V, teacher.bias_V)
                # With weights, _compare leaves the gradient of the logits in the logits' own memory.
                terms += _compare(logits_RV, _product(teacher, rows), biases, labels_M[rows], weights)
                if weights is not None:
                    gradient.add(rows, logits_RV)
                del logits_RV  # or it would live on beside the next chunk's
        if weights is not None:
            # No saved tensors: those could not be scaled in place, and the decoder's gradient is as large as it is.
            ctx.gradients = [gradient.states_MH, gradient.weight_VH, gradient.bias_V]
            ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (states_MH, weight_VH, bias_V)]
            ctx.weights = weights
        return terms[0], terms[1]

    @staticmethod
    def backward(ctx: Any, grad_ce: torch.Tensor, grad_kl: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = _common_scale(grad_ce, grad_kl, ctx.weights)
        gradients, ctx.gradients = zip(ctx.gradients, ctx.dtypes, strict=True), None
        # In the parameter's type first: a half type could not hold a small gradient times a small scale.
        return *(None if t is None else t.to(dtype).mul_(scale) for t, dtype in gradients), *[None] * 4


class _Gradient:
    """Gradients of the decoder's inputs and parameters, gathered chunk by chunk.

    An input's gradient is complete with its own chunk; those of weight and bias are sums over all chunks.
    """

    def __init__(self, student: Decoder, *, wanted: tuple[bool, ...], num_chunks: int):
        self.student = student
        # One chunk's matrix product is the gradient itself; several are added up in the exact type.
        self.adds = num_chunks != 1
        dtype = exact_dtype(student.states_MH) if self.adds else student.dtype
        states, weight, bias = student[:3]
        self.states_MH = torch.empty_like(states) if wanted[0] else None
        self.weight_VH = (
            (torch.zeros_like if self.adds else torch.empty_like)(weight, dtype=dtype) if wanted[1] else None
        )
        self.bias_V = torch.zeros_like(bias, dtype=dtype) if bias is not None and wanted[2] else None

    def add(self, rows: slice, gradient_RV: torch.Tensor) -> None:
        if self.states_MH is not None:
            torch.mm(gradient_RV, self.student.weight_VH, out=self.states_MH[rows])
        if self.weight_VH is not None:
            states_RH = self.student.states_MH[rows]
            if self.adds:
                # in slices of words, as the product of one chunk would be as large as the weight itself
                bytes_per_word = max(1, states_RH.shape[-1]) * states_RH.dtype.itemsize
                for words in slices(len(self.weight_VH), LOGITS_BYTES // bytes_per_word):
                    self.weight_VH[words] += gradient_RV[:, words].t() @ states_RH
            else:
                torch.mm(gradient_RV.t(), states_RH, out=self.weight_VH)
        if self.bias_V is not None:
            self.bias_V += gradient_RV.sum(0, dtype=self.bias_V.dtype)


def _lowered(decoder: Decoder) -> Decoder:
    states, weight, bias, dtype = decoder
    # The bias too, though it is added in the exact type: a teacher in a half type keeps it rounded.
    return Decoder(states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), dtype)


def _product(decoder: Decoder, rows: slice) -> torch.Tensor:
    return decoder.states_MH[rows] @ decoder.weight_VH.t()


def _compare(
    student_RV: torch.Tensor,
    teacher_RV: torch.Tensor,
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    labels_R: torch.Tensor,
    weights: tuple[float, float] | None,
) -> torch.Tensor:
    """`(CE, KL)` of some rows; the products are used up: with weights, the student's become a·dCE + b·dKL."""
    terms = torch.zeros(2, dtype=exact_dtype(student_RV), device=student_RV.device)
    num_elements = CHUNK_ELEMENTS.get(student_RV.device.type, OTHER_CHUNK_ELEMENTS)
    # so few rows that their exact copies stay small, on a CPU in its cache
    for rows in slices(len(student_RV), num_elements // student_RV.shape[-1]):
        student, teacher = _logits(student_RV[rows], biases[0]), _logits(teacher_RV[rows], biases[1])
        of_rows, gradient = _compare_exactly(student, teacher, labels_R[rows], weights)
        terms += of_rows
        if gradient is not None:
            student_RV[rows] = gradient  # rounded to the type of the products
    return terms


def _logits(product_RV: torch.Tensor, bias_V: torch.Tensor | None) -> torch.Tensor:
    # Added here and not in the matrix product: here the numbers are exact and in the cache.
    exact = exact_dtype(product_RV)
    return product_RV.to(exact) if bias_V is None else product_RV + bias_V.to(exact)


def _compare_exactly(
    student_RV: torch.Tensor,
    teacher_RV: torch.Tensor,
    labels_R: torch.Tensor,
    weights: tuple[float, float] | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`(CE, KL)` of logits, and with weights the gradient of the student's; the teacher's are overwritten.

    Probabilities come from softmax alone, which takes a CPU less time than `exp`.
    """
    # a label that is no word reads word 0, times 0
    valid = (labels_R >= 0) & (labels_R < student_RV.shape[-1])
    words = labels_R.masked_fill(~valid, 0)
    p_student, p_teacher = student_RV.softmax(-1), teacher_RV.softmax(-1)
    log_sums_R = _log_sums(student_RV, p_student)
    ce = ((log_sums_R - student_RV.gather(-1, words[:, None])[:, 0]) * valid).sum()
    # KL = Σ p_t · (x_t − x_s) + log Σ exp(x_s) − log Σ exp(x_t) of the logits x
    log_sums_R -= _log_sums(teacher_RV, p_teacher)
    kl = (teacher_RV.sub_(student_RV).mul_(p_teacher).sum(-1) + log_sums_R).sum()
    if weights is None:
        return torch.stack([ce, kl]), None
    ce_weight, kl_weight = weights
    # d CE = p_s − onehot where the label counts, d KL = p_s − p_t.
    gradient = p_student.mul_((ce_weight * valid + kl_weight)[:, None])
    gradient.scatter_add_(-1, words[:, None], (-ce_weight * valid)[:, None].to(gradient.dtype))
    return torch.stack([ce, kl]), gradient.sub_(p_teacher, alpha=kl_weight)


def _log_sums(logits_RV: torch.Tensor, p_RV: torch.Tensor) -> torch.Tensor:
    """Return log Σ exp(x), by the likeliest word: log p = x − log Σ exp(x)."""
    return logits_RV.amax(-1) - p_RV.amax(-1).log()


def _common_scale(grad_ce: torch.Tensor, grad_kl: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Return s of s·(a·CE + b·KL), which autograd hands back as s·a and s·b; refuse any other ratio."""
    ce_weight, kl_weight = weights
    is_finite = grad_ce.isfinite() & grad_kl.isfinite()
    # (s·a)·b = (s·b)·a, also where a weight is 0
    fits = torch.isclose(grad_ce * kl_weight, grad_kl * ce_weight, rtol=1e-4) | ~is_finite
    # Asserted on the device: the host would otherwise wait for it in every micro-batch.
    torch._assert_async(fits, f"CE and KL do not stand in the loss as weights={weights} said")
    # From both, so that a value that is not finite in either stays so.
    return (grad_ce * ce_weight + grad_kl * kl_weight) / (ce_weight**2 + kl_weight**2 or 1.0)
