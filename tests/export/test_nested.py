"""Sizes of a nested student by name, share and milliseconds; times are made by formula."""

from dataclasses import replace

import pytest
from students import make_student

from homodistil_hf.export.nested import NestedMember, find_member
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.plans import latency


def size(hidden_size, num_heads, ffn):
    return WidthPlan.uniform(hidden_size, 2, LayerWidths(num_heads, 8, ffn))


MEMBERS = [NestedMember("macs=0.5", size(32, 4, 64), {"kl": 1.0}), NestedMember("macs=0.25", size(16, 2, 16))]
LARGEST, SMALLEST = (encoder_macs(one.plan) for one in MEMBERS)
NARROW = encoder_macs(size(32, 4, 16))


def found(wanted):
    return find_member(make_student(), MEMBERS, wanted, whole_macs=2 * LARGEST)


@pytest.fixture
def timed(monkeypatch):
    """Milliseconds are thousands of MACs; yields the widths that were timed."""
    widths = []

    def times(models, budget, **_):
        (plan,) = widths_of_all = [widths_of(model.config) for model in models.values()]
        widths.extend(widths_of_all)
        return {name: [encoder_macs(plan) / 1000 * budget.batch_size] for name in models}

    monkeypatch.setattr(latency, "model_times", times)
    return widths


@pytest.mark.parametrize(
    ("milliseconds", "expected"),
    [
        (LARGEST / 1000, size(32, 4, 64)),
        (LARGEST / 1000 - 0.1, size(32, 4, 56)),
        (encoder_macs(size(32, 4, 40)) / 1000, size(32, 4, 40)),
        (NARROW / 1000, size(32, 4, 16)),
        (NARROW / 1000 - 0.1, size(16, 2, 16)),
        (SMALLEST / 1000, size(16, 2, 16)),
    ],
)
def test_the_largest_that_is_fast_enough(timed, milliseconds, expected):
    assert found(f"latency_ms={milliseconds:.4f}").plan == expected
    assert len(set(timed)) == len(timed)
    assert found(f"latency_ms={2 * milliseconds:.4f},batch_size=2").plan == expected


def test_what_is_not_fast_enough_is_refused(timed):
    with pytest.raises(ValueError, match=r"member='latency_ms=1': the smallest size, macs=0.25, takes .* ms"):
        found("latency_ms=1")
    with pytest.raises(ValueError, match=r"member='latency_ms=1,size=2' has the unknown condition 'size'"):
        found("latency_ms=1,size=2")


def test_a_share_between_two_members(caplog):
    share = encoder_macs(size(32, 4, 40)) / LARGEST / 2
    assert found("1/2") is found("macs=0.5") is found("macs=.50") is MEMBERS[0]
    assert not caplog.messages
    between = found(share + 1e-4)
    assert between.plan == size(32, 4, 40)
    assert not between.evaluation
    assert f"{between.name} was not trained" in caplog.text
    renamed = [replace(MEMBERS[0], name="a"), MEMBERS[1]]
    assert find_member(make_student(), renamed, 0.5, whole_macs=2 * LARGEST) is renamed[0]  # the upper end
    for wanted in (0.26, 0.6, 0.1, "macs=1.5", "nonsense", None):
        with pytest.raises(ValueError, match=r"is none of the nested student's: macs=0.5, macs=0.25; nearest valid"):
            found(wanted)


def test_uneven_layers_get_narrower_side_by_side():
    wide = WidthPlan(32, (LayerWidths(4, 8, 64), LayerWidths(3, 8, 32)))
    narrow = WidthPlan(16, (LayerWidths(2, 8, 16), LayerWidths(2, 8, 32)))
    members = [NestedMember("a", wide), NestedMember("b", narrow)]
    middle = WidthPlan(32, (LayerWidths(4, 8, 40), LayerWidths(3, 8, 32)))
    wanted = encoder_macs(middle) / encoder_macs(wide) + 1e-4
    assert find_member(make_student(), members, wanted, whole_macs=encoder_macs(wide)).plan == middle
