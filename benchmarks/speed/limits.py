"""The machine's own limit: how fast it multiplies matrices of a step's shapes, and how much of that a step reaches.

Counted as useful: the teacher's forward, the student's forward and its backward (twice the forward) at the widths that
the masks keep, both attention products, the heads at predicted positions, the projections. Not counted: biases, norms,
activations, softmax, the loss itself, scores, the optimizer.
"""

import time
from collections import Counter
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import WidthPlan

_REPEATS = 2  # the faster one counts: it is a limit


@dataclass(frozen=True)
class Product:
    """A linear layer's product, rows × inputs times inputs × outputs."""

    rows: int
    inputs: int
    outputs: int

    @property
    def flops(self) -> int:
        """Floating-point operations, two a multiply-accumulate."""
        return 2 * self.rows * self.inputs * self.outputs


@dataclass(frozen=True)
class StepShape:
    """What the products of one batch depend on."""

    teacher: WidthPlan
    student: WidthPlan
    vocab_size: int
    num_tokens: int
    num_predictions: int
    length: int

    @property
    def useful_flops(self) -> int:
        """Floating-point operations of one batch, forward and backward, that the method can't do without."""
        sizes = self.student.hidden_size * self.teacher.hidden_size
        projections = self.num_tokens * sizes * (len(self.student.layers) + 1)
        return 2 * (self._macs(self.teacher) + 3 * (self._macs(self.student) + projections))

    def _macs(self, plan: WidthPlan) -> int:
        head = self.num_predictions * plan.hidden_size * (plan.hidden_size + self.vocab_size)
        return encoder_macs(plan, self.length) * self.num_tokens + head

    def forward_products(self) -> Counter[Product]:
        """The student's linear layers: product → how often, in one forward pass."""
        products = self._products(self.student)
        projection = Product(self.num_tokens, self.student.hidden_size, self.teacher.hidden_size)
        products[projection] += len(self.student.layers) + 1
        return products

    def teacher_products(self) -> Counter[Product]:
        """The teacher's linear layers: product → how often."""
        return self._products(self.teacher)

    def _products(self, plan: WidthPlan) -> Counter[Product]:
        size = plan.hidden_size
        products = Counter(Product(self.num_predictions, size, outputs) for outputs in (size, self.vocab_size))
        for layer in plan.layers:
            products[Product(self.num_tokens, size, layer.attention_size)] += 3
            products[Product(self.num_tokens, layer.attention_size, size)] += 1
            products[Product(self.num_tokens, size, layer.intermediate_size)] += 1
            products[Product(self.num_tokens, layer.intermediate_size, size)] += 1
        return products


class LimitProbe:
    """Multiplies matrices of all shapes of a step, each once a round: forward, and the two products of backward."""

    def __init__(self, shape: StepShape, *, dtype: torch.dtype, device: torch.device):
        self.forwards, self.teachers = shape.forward_products(), shape.teacher_products()
        self.dtype, self.device = dtype, device
        self.flops_per_second: list[float] = []

    def advance(self) -> float:
        """Seconds of the linear layers of a whole step at this round's speed; the rate itself is kept."""
        seconds, flops = 0.0, 0
        for product in self.forwards | self.teachers:
            forward, backward = self._seconds(product)
            count, teacher_count = self.forwards[product], self.teachers[product]
            seconds += (count + teacher_count) * forward + count * backward
            flops += (3 * count + teacher_count) * product.flops
        self.flops_per_second.append(flops / seconds)
        return seconds

    def _seconds(self, product: Product) -> tuple[float, float]:
        inputs = torch.rand(product.rows, product.inputs, device=self.device).to(self.dtype)
        weight = torch.rand(product.outputs, product.inputs, device=self.device).to(self.dtype)
        gradient = torch.rand(product.rows, product.outputs, device=self.device).to(self.dtype)
        durations = []
        for _ in range(_REPEATS):
            started = self._now()
            F.linear(inputs, weight)
            between = self._now()
            F.linear(gradient, weight.t())
            F.linear(gradient.t(), inputs.t())
            durations.append((between - started, self._now() - between))
        return min(forward for forward, _ in durations), min(backward for _, backward in durations)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
