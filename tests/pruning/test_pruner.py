"""The pruner strings score, choose and slice together, and its state goes into a checkpoint and back."""

import copy
import json
from itertools import pairwise

import pytest
import torch
from rows import each
from run_traces import differences
from students import kept_plan
from tiny_models import make_teacher
from torch import nn

from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.widths import LayerWidths, WidthPlan, kept_fractions, widths_of
from homodistil_hf.pruning.masks import choose_masks, full_masks
from homodistil_hf.pruning.pruner import Pruner
from homodistil_hf.pruning.schedule import PruningSchedule

pytestmark = pytest.mark.slow

FULL = WidthPlan.uniform(32, 2, LayerWidths(4, 8, 64))
TARGET = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))
UNEVEN = WidthPlan(24, (LayerWidths(4, 5, 24), LayerWidths(1, 5, 40)))
INPUT_IDS = torch.randint(5, 96, (4, 16), generator=torch.Generator().manual_seed(3))


def make_pruner(target: WidthPlan = TARGET, **settings: object) -> Pruner:
    return Pruner(to_student(make_teacher()), target, **settings)


def backward(pruner: Pruner, seed: int = 0) -> None:
    torch.manual_seed(seed)
    pruner.model.zero_grad()
    logits = pruner.model(INPUT_IDS).logits
    nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(5, 96, (64,))).backward()


def run(pruner: Pruner, num_steps: int = 20, *, interval_steps: int = 2, start_step: int = 0) -> list[WidthPlan]:
    """Training steps of AdamW with weight decay; the widths after each."""
    schedule = PruningSchedule((0.0, 0.5), interval_steps, 20)
    optimizer = torch.optim.AdamW(pruner.model.parameters(), lr=1e-3, weight_decay=0.1)
    plans = []
    for step in range(start_step + 1, start_step + num_steps + 1):
        backward(pruner, seed=step)
        pruner.score()
        optimizer.step()
        before = pruner.kept
        masks = pruner.step(step, schedule, optimizer=optimizer)
        assert pruner.kept == (before if masks is None else kept_plan(masks))
        plans.append(pruner.kept)
    return plans


def test_starts_with_everything_kept():
    pruner = make_pruner()
    assert pruner.full == pruner.kept == FULL
    assert kept_fractions(pruner.kept, pruner.full) == {"hidden": 1.0, "attention": 1.0, "ffn": 1.0}
    assert kept_fractions(UNEVEN, FULL) == {"hidden": 24 / 32, "attention": 25 / 64, "ffn": 0.5}
    assert not pruner.plan_reached


@each(
    ("metric", "target"),
    [*((metric, TARGET) for metric in ("sensitivity", "magnitude")), ("sensitivity", UNEVEN)],
)
def test_reaches_the_plan_exactly_and_only_ever_shrinks(metric, target):
    pruner = make_pruner(target, metric=metric)
    for before, after in pairwise([FULL, *run(pruner)]):
        fractions = [kept_fractions(plan, FULL) for plan in (before, after)]
        assert all(fractions[1][kind] <= fractions[0][kind] for kind in fractions[0])
    assert pruner.plan_reached
    assert pruner.kept == target


def test_a_plan_of_full_width_prunes_nothing():
    pruner = make_pruner(FULL)
    parameters = list(pruner.model.parameters())
    assert pruner.plan_reached
    assert run(pruner) == [FULL] * 20
    assert all(old is new for old, new in zip(parameters, pruner.model.parameters(), strict=True))


def test_nothing_happens_between_intervals():
    plans = run(make_pruner(multiple=1), 9, interval_steps=4)
    changes = [step for step, (old, new) in enumerate(pairwise([FULL, *plans]), 1) if old != new]
    assert changes == [4, 8]


def test_the_best_units_stay_and_go_on_with_their_scores():
    pruner = make_pruner(UNEVEN)
    backward(pruner)
    pruner.score()
    scores, expected = pruner.unit_scores(), choose_masks(pruner.unit_scores(), full_masks(pruner.groups), plan=UNEVEN)
    masks = pruner.prune_to(UNEVEN)
    assert all(torch.equal(masks[name], expected[name]) for name in expected)
    assert {name: group.num_units for name, group in pruner.groups.items()} == {
        name: int(mask.sum()) for name, mask in masks.items()
    }
    assert all(torch.equal(values, scores[name][masks[name]]) for name, values in pruner.unit_scores().items())
    assert widths_of(pruner.model.config) == UNEVEN


def test_nothing_is_scored_once_the_plan_is_reached():
    pruner = make_pruner()
    run(pruner)
    before = pruner.state_tensors()
    backward(pruner, seed=99)
    pruner.score()
    assert all(torch.equal(values, before[name]) for name, values in pruner.state_tensors().items())


def copy_of(pruner: Pruner, **changes: object) -> Pruner:
    """Another pruner of another copy of the same student, through what a checkpoint would hold."""
    student = type(pruner.model)(copy.deepcopy(pruner.model.config))
    student.load_state_dict(pruner.model.state_dict())
    student.eval()
    copied = Pruner(student, pruner.target, full=pruner.full, **pruner.settings | changes)
    copied.load_state(json.loads(json.dumps(pruner.state_dict())), pruner.state_tensors())
    return copied


@each("metric", ["sensitivity", "magnitude"])
@each("num_steps", [4, 12])
def test_state_comes_back_exactly(metric, num_steps):
    pruner = make_pruner(metric=metric)
    run(pruner, num_steps, interval_steps=1)
    assert pruner.kept != FULL
    assert pruner.plan_reached == (num_steps == 12)
    copied = copy_of(pruner)
    assert copied.state_dict() == pruner.state_dict()
    assert differences(copied.state_tensors(), pruner.state_tensors()) == []
    for one in (pruner, copied):
        run(one, 3, interval_steps=1, start_step=num_steps)
    assert copied.kept == pruner.kept
    assert all(torch.equal(a, b) for a, b in zip(copied.model.parameters(), pruner.model.parameters(), strict=True))


def test_another_metric_is_refused():
    with pytest.raises(ValueError, match="importance_metric='magnitude' differs from the checkpoint's 'sensitivity'"):
        make_pruner(metric="magnitude").check_state(make_pruner().state_dict())
