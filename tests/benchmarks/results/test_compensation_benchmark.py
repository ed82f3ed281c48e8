"""The fit that `benchmarks/compensation.py` measures: what dropped units carried is folded into the kept ones."""

import copy
import runpy
from pathlib import Path

import pytest
import torch
from students import UNEVEN, UNIFORM, assert_same_logits, logits_of, make_batch, make_student, masked, random_scores
from torch.nn import functional as F

from homodistil_hf.models.units import encoder_groups, kept_indices
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.pruning.masks import apply_masks, choose_masks, full_masks, kept_plan

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "results" / "least_squares.py"))
least_squares, weighted_moments = SCRIPT["least_squares"], SCRIPT["weighted_moments"]
BATCH = make_batch(num_rows=64)
ALMOST_NO_RIDGE = 1e-10


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def compensated(student, plan=UNIFORM, *, masks=None, **settings):
    """Mask random units (or those of `masks`) down to a plan, with compensation; groups and masks."""
    batch = {name: BATCH[name] for name in ("input_ids", "attention_mask")}
    groups = encoder_groups(student)
    masks = masks or choose_masks(random_scores(groups), full_masks(groups), plan=plan)
    with SCRIPT["compensation"](student, groups, masks, batch=batch, **settings):
        apply_masks(student, groups, masks)
    return groups, masks


def only(name: str, dropped: list[int], groups) -> dict[str, torch.Tensor]:
    masks = full_masks(groups)
    masks[name][dropped] = False
    return masks


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_fit_is_that_of_a_standard_solver(with_bias):
    x, r, w = drawn(50, 3), drawn(50, 2, seed=1), drawn(50, seed=2).abs()
    design = torch.cat([x, torch.ones(50, 1)], dim=1) if with_bias else x
    expected = torch.linalg.lstsq(design * w.sqrt()[:, None], r * w.sqrt()[:, None]).solution.T
    found = least_squares(weighted_moments(x, r, w), 3, ridge=1e-14, with_bias=with_bias)
    torch.testing.assert_close(found if with_bias else found[:, :3], expected)
    assert with_bias or found[:, 3].abs().max() == 0


def test_an_infinite_ridge_is_plain_pruning():
    student = make_student(dtype=torch.float64)
    plain = copy.deepcopy(student)
    masked(plain, UNIFORM)
    compensated(student, UNIFORM, ridge=1e20)
    for (name, found), expected in zip(student.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}")


def test_neurons_that_follow_from_others_are_folded_exactly():
    student = make_student(dtype=torch.float64)
    neurons = student.bert.encoder.layer[1].intermediate.dense
    with torch.no_grad():
        neurons.weight[40:] = neurons.weight[:24]
        neurons.bias[40:] = neurons.bias[:24]
    twins = logits_of(student, BATCH)
    compensated(student, masks=only("ffn.1", list(range(40, 64)), encoder_groups(student)), ridge=ALMOST_NO_RIDGE)
    torch.testing.assert_close(logits_of(student, BATCH), twins, rtol=0, atol=1e-6)


def test_value_channels_that_follow_from_others_are_folded_exactly():
    student = make_student(dtype=torch.float64)
    values = student.bert.encoder.layer[0].attention.self.value
    with torch.no_grad():
        values.weight[6:8] = drawn(2, 6) @ values.weight[:6]
        values.bias[6:8] = 1.0  # attention sums up to 1, so a constant stays one
    before = logits_of(student, BATCH)
    compensated(student, masks=only("value_output.0", [6, 7], encoder_groups(student)), ridge=ALMOST_NO_RIDGE)
    torch.testing.assert_close(logits_of(student, BATCH), before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("plan", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
def test_a_compensated_student_is_nearer_to_what_it_was(plan):
    student = make_student()
    plain = copy.deepcopy(student)
    teacher = logits_of(student, BATCH)
    masked(plain, plan)
    compensated(student, plan)
    errors = [F.mse_loss(logits_of(model, BATCH), teacher) for model in (student, plain)]
    assert errors[0] < 0.8 * errors[1]


def test_masked_equals_compacted():
    student = make_student()
    groups, masks = compensated(student, UNEVEN)
    for name, dims in kept_indices(groups, masks).items():
        for dim, kept in dims.items():
            assert not student.get_parameter(name).index_select(dim, (~kept).nonzero().flatten()).any(), name
    logits = logits_of(student, BATCH)
    compact(student, groups, masks, plan=kept_plan(masks))
    assert_same_logits(logits_of(student, BATCH), logits)
