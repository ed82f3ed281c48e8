"""What counts as useful work, and what the machine could do."""

from collections import Counter

from benchmarks.speed.limits import Product, StepShape
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan

TEACHER = WidthPlan.uniform(8, 2, LayerWidths(2, 4, 16))
STUDENT = WidthPlan(6, (LayerWidths(1, 4, 10), LayerWidths(2, 3, 12)))
SHAPE = StepShape(TEACHER, STUDENT, vocab_size=50, num_tokens=40, num_predictions=6, length=10)


def test_a_step_is_teacher_forward_and_student_forward_and_backward():
    teacher = 40 * (2 * (4 * 8 * 8 + 2 * 8 * 16 + 2 * 10 * 8)) + 6 * 8 * (8 + 50)
    student = 40 * encoder_macs(STUDENT, 10) + 6 * 6 * (6 + 50) + 40 * 3 * 6 * 8
    assert SHAPE.useful_flops == 2 * (teacher + 3 * student)


def test_products_are_all_linear_layers():
    """Their operations are the useful ones less the two attention products."""
    attention = {plan: 40 * sum(2 * 10 * layer.attention_size for layer in plan.layers) for plan in (TEACHER, STUDENT)}
    products = sum(3 * n * p.flops for p, n in SHAPE.forward_products().items())
    products += sum(n * p.flops for p, n in SHAPE.teacher_products().items())
    assert products == SHAPE.useful_flops - 2 * (attention[TEACHER] + 3 * attention[STUDENT])
    assert SHAPE.teacher_products() == Counter(
        {
            Product(40, 8, 8): 8,
            Product(40, 8, 16): 2,
            Product(40, 16, 8): 2,
            Product(6, 8, 8): 1,
            Product(6, 8, 50): 1,
        }
    )
