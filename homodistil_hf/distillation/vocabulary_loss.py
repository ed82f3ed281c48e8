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
            terms_2M = states_MH.new_empty((2, len(states_MH)), dtype=exact_dtype(states_MH))
            labels = _labels_of(labels_M, len(weight_VH), terms_2M.dtype, weights or (0.0, 0.0))
            gradient = _Gradient(student, wanted=ctx.needs_input_grad[:3], num_chunks=len(chunks))
            for rows in chunks:
                logits_RV, biases = _product(student, rows), (student.bias_V, teacher.bias_V)
                products = logits_RV, _product(teacher, rows)
                # With weights, _compare leaves the gradient of the logits in the logits' own memory.
                _compare(products, biases, labels.rows(rows), weights, out_2R=terms_2M[:, rows])
                if weights is not None:
                    gradient.add(rows, logits_RV)
                del logits_RV, products  # or they would live on beside the next chunk's
            terms = terms_2M.sum(-1)
        if weights is not None:
            # No saved tensors: those could not be scaled in place, and the decoder's gradient is as large as it is.
            ctx.gradients = [gradient.states_MH, gradient.weight_VH, gradient.bias_V]
            ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (states_MH, weight_VH, bias_V)]
            ctx.weights = weights
        return terms[0], terms[1]

    @staticmethod
    def backward(ctx: Any, grad_ce: torch.Tensor, grad_kl: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scale = _common_scale(grad_ce, grad_kl, ctx.weights)
        # In the parameter's type first: a half type could not hold a small gradient times a small scale.
        gradients = [None if t is None else t.to(dtype) for t, dtype in zip(ctx.gradients, ctx.dtypes, strict=True)]
        ctx.gradients = None
        torch._foreach_mul_([t for t in gradients if t is not None], scale)
        return *gradients, *[None] * 4


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
                    self.weight_VH[words].add_(gradient_RV[:, words].t() @ states_RH)
            else:
                torch.mm(gradient_RV.t(), states_RH, out=self.weight_VH)
        if self.bias_V is not None:
            self.bias_V += gradient_RV.sum(0, dtype=self.bias_V.dtype)


def _lowered(decoder: Decoder) -> Decoder:
    states, weight, bias, dtype = decoder
    states = states.to(dtype)
    # The bias is rounded too, though it is added in the exact type: a teacher in a half type keeps it rounded.
    exact_bias = None if bias is None else bias.to(dtype).to(exact_dtype(states))
    return Decoder(states, weight.to(dtype), exact_bias, dtype)


def _product(decoder: Decoder, rows: slice) -> torch.Tensor:
    return decoder.states_MH[rows] @ decoder.weight_VH.t()


class _Labels(NamedTuple):
    """What the labels of some rows ask for, in the exact type: computed once for all chunks.

    Args:
        words_R: the labels; some word for a label that is none.
        counts_R: 1 where the label is a word, else 0.
        of_p_R: a·count + b, the factor of p_s in the gradient.
        of_words_R: −a·count, what is added to the gradient of the label's word.
    """

    words_R: torch.Tensor
    counts_R: torch.Tensor
    of_p_R: torch.Tensor
    of_words_R: torch.Tensor

    def rows(self, rows: slice) -> "_Labels":
        return _Labels(*(values_R[rows] for values_R in self))


def _labels_of(labels_M: torch.Tensor, num_words: int, dtype: torch.dtype, weights: tuple[float, float]) -> _Labels:
    words_M = labels_M.clamp(0, num_words - 1)
    counts_M = (words_M == labels_M).to(dtype)
    ce_weight, kl_weight = weights
    of_words_M = -ce_weight * counts_M
    return _Labels(words_M, counts_M, kl_weight - of_words_M, of_words_M)


def _compare(
    products: tuple[torch.Tensor, torch.Tensor],
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    labels: _Labels,
    weights: tuple[float, float] | None,
    *,
    out_2R: torch.Tensor,
) -> None:
    """CE and KL of some rows, into `out_2R`; with weights the student's products become a·dCE + b·dKL."""
    student_RV, teacher_RV = products
    num_elements = CHUNK_ELEMENTS.get(student_RV.device.type, OTHER_CHUNK_ELEMENTS)
    # so few rows that their exact copies stay small, on a CPU in its cache
    for rows in slices(len(student_RV), num_elements // student_RV.shape[-1]):
        logits_2RV = _logits((student_RV[rows], teacher_RV[rows]), biases, out_2R.dtype)
        gradient = _compare_exactly(logits_2RV, labels.rows(rows), weights, out_2R=out_2R[:, rows])
        if gradient is not None:
            student_RV[rows] = gradient  # rounded to the type of the products
        del logits_2RV, gradient  # or they would live on beside the next ones


def _logits(
    products: tuple[torch.Tensor, torch.Tensor],
    biases: tuple[torch.Tensor | None, torch.Tensor | None],
    dtype: torch.dtype,
) -> torch.Tensor:
    """Both models' logits in one tensor, so that one operation does for both.

    The bias is added here and not in the matrix product: here the numbers are exact and in the cache.
    """
    logits_2RV = products[0].new_empty((2, *products[0].shape), dtype=dtype)
    for logits_RV, product_RV, bias_V in zip(logits_2RV, products, biases, strict=True):
        if bias_V is None:
            logits_RV.copy_(product_RV)
        else:
            torch.add(product_RV, bias_V, out=logits_RV)
    return logits_2RV


def _compare_exactly(
    logits_2RV: torch.Tensor, labels: _Labels, weights: tuple[float, float] | None, *, out_2R: torch.Tensor
) -> torch.Tensor | None:
    """CE and KL of the logits of student and teacher, and with weights the gradient; the teacher's are overwritten.

    Probabilities come from softmax alone, which takes a CPU less time than `exp`.
    """
    p_2RV = logits_2RV.softmax(-1)
    # log Σ exp(x), by the likeliest word: log p = x − log Σ exp(x)
    log_sums_2R = logits_2RV.amax(-1) - p_2RV.amax(-1).log()
    (student_RV, teacher_RV), (p_student, p_teacher) = logits_2RV, p_2RV
    words_R1 = labels.words_R[:, None]
    torch.mul(log_sums_2R[0] - student_RV.gather(-1, words_R1)[:, 0], labels.counts_R, out=out_2R[0])
    # KL = Σ p_t · (x_t − x_s) + log Σ exp(x_s) − log Σ exp(x_t) of the logits x
    differences_R = teacher_RV.sub_(student_RV).mul_(p_teacher).sum(-1)
    torch.add(differences_R, log_sums_2R[0] - log_sums_2R[1], out=out_2R[1])
    if weights is None:
        return None
    # d CE = p_s − onehot where the label counts, d KL = p_s − p_t
    gradient = p_student.mul_(labels.of_p_R[:, None])
    gradient.scatter_add_(-1, words_R1, labels.of_words_R[:, None])
    return gradient.sub_(p_teacher, alpha=weights[1])


def _common_scale(grad_ce: torch.Tensor, grad_kl: torch.Tensor, weights: tuple[float, float]) -> torch.Tensor:
    """Return s of s·(a·CE + b·KL), which autograd hands back as s·a and s·b; refuse any other ratio."""
    ce_weight, kl_weight = weights
    # (s·a)·b = (s·b)·a, also where a weight is 0; what is not finite is never above what is not finite
    product = grad_ce * kl_weight
    difference = torch.sub(product, grad_kl, alpha=ce_weight).abs()
    fits = ~(difference > 1e-4 * torch.add(product, grad_kl, alpha=ce_weight).abs())
    # Asserted on the device: the host would otherwise wait for it in every micro-batch.
    torch._assert_async(fits, f"CE and KL do not stand in the loss as weights={weights} said")
    # From both, so that a value that is not finite in either stays so.
    squares = ce_weight**2 + kl_weight**2 or 1.0
    return torch.add(grad_ce * (ce_weight / squares), grad_kl, alpha=kl_weight / squares)
