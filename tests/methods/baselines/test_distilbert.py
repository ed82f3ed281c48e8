"""DistilBERT's students have as many whole layers as cost what a narrow student does."""

import pytest
from rows import each

from homodistil_hf.methods.baselines.distilbert import shallow_plan
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.resizing import spread_layers
from homodistil_hf.models.widths import LayerWidths, WidthPlan, chosen
from homodistil_hf.plans.budgets import TOLERANCE

BASE = WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072))


@each("num_kept", [1, 3, 6, 12])
def test_depth_follows_the_encoder_macs(num_kept):
    assert shallow_plan(chosen(BASE, range(num_kept)), BASE) == spread_layers(num_kept, 12)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_depth_must_meet_the_macs_within_the_tolerance(sign):
    def plan(share: float) -> WidthPlan:
        # Encoder MACs are linear in the FFN size.
        return WidthPlan(768, (LayerWidths(12, 64, round(3072 * share)),) * 12)

    def share(deviation: float) -> float:
        return (encoder_macs(BASE) / 2 * (1 + deviation) - encoder_macs(plan(0.0))) / (2 * 768 * 12 * 3072)

    assert shallow_plan(plan(share(sign * (TOLERANCE - 2e-3))), BASE) == (0, 2, 4, 7, 9, 11)
    assert shallow_plan(plan(share(sign * (TOLERANCE + 2e-3))), BASE) is None
