import copy
import dataclasses

import pytest
import torch
from students import (
    FULL,
    KINDS,
    TASKS,
    UNEVEN,
    UNIFORM,
    assert_same_logits,
    logits_of,
    make_batch,
    make_student,
    masked,
    random_scores,
    slow_logits,
    unlabelled,
)
from tiny_models import make_teacher
from torch import nn

from homodistil_hf.distillation.objective import Distillation
from homodistil_hf.distillation.teacher import FrozenTeacher
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.families.modeling_homobert import HomoBertConfig, HomoBertLayerNorm, layer_config
from homodistil_hf.models.resizing import replace_parameters, set_widths, write_plan
from homodistil_hf.models.units import encoder_groups, kept_indices, modules_of
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.compaction import compact, is_worthwhile
from homodistil_hf.pruning.masks import apply_masks, choose_masks, full_masks, gradients, kept_plan, zero_dropped

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def narrowed(**widths: int) -> WidthPlan:
    """The full widths with some of them smaller, in both layers."""
    hidden = widths.pop("hidden_size", FULL.hidden_size)
    return WidthPlan(hidden, tuple(dataclasses.replace(layer, **widths) for layer in FULL.layers))


PLANS = {
    "hidden": narrowed(hidden_size=13),
    "heads": narrowed(num_attention_heads=1),
    "head channels": narrowed(head_dim=3),
    "ffn": narrowed(intermediate_size=7),
    "all": UNIFORM,
    "all, uneven": UNEVEN,
    "smallest": WidthPlan.uniform(2, 2, LayerWidths(1, 1, 1)),
}


# Masked = compacted = never there


@DTYPES
@pytest.mark.parametrize("kind", [*KINDS, "all"])
def test_a_masked_student_is_one_without_those_units(kind, dtype):
    student, inputs = make_student(dtype=dtype), make_batch()
    groups = encoder_groups(student)
    weights = {name: parameter.detach().clone() for name, parameter in student.named_parameters()}
    generator = torch.Generator().manual_seed(3)
    masks = full_masks(groups)
    for name in masks:
        if kind in ("all", name.split(".")[0]):
            masks[name] = torch.rand(len(masks[name]), generator=generator) < 0.6
            masks[name][0] = True
    before = logits_of(student, inputs)
    apply_masks(student, groups, masks)
    logits = logits_of(student, inputs)
    assert_same_logits(logits, slow_logits(weights, inputs, masks, head_dim=8))
    assert float((logits - before).abs().max()) > 1e-2


@DTYPES
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("task", TASKS)
def test_masked_equals_compacted(task, plan, dtype):
    student, inputs = make_student(task, dtype=dtype), make_batch(task)
    groups, masks = masked(student, plan)
    expected = logits_of(student, inputs)
    compact(student, groups, masks, plan=plan)
    assert_same_logits(logits_of(student, inputs), expected)
    sizes = {name: group.num_units for name, group in encoder_groups(student).items()}
    assert sizes == {name: int(mask.sum()) for name, mask in masks.items()}


@pytest.mark.parametrize("task", TASKS)
def test_gradients_of_a_masked_student_are_those_of_the_compacted_one(task):
    student, inputs = make_student(task, dtype=torch.float64), make_batch(task)
    groups, masks = masked(student, UNEVEN)

    def take_gradients() -> dict[str, torch.Tensor]:
        outputs = student(**inputs, output_hidden_states=True)
        states = zip(student.projections.hidden, outputs.hidden_states[1:], strict=True)
        (outputs.loss + sum(projection(state).square().mean() for projection, state in states)).backward()
        return gradients(student)

    before = take_gradients()
    kept = compact(student, groups, masks, plan=UNEVEN)
    after = take_gradients()
    assert after.keys() == before.keys()
    for name, gradient in before.items():
        for dim, mask in kept.get(name, {}).items():
            gradient = gradient.index_select(dim, mask.nonzero().flatten())
        torch.testing.assert_close(after[name], gradient, rtol=1e-9, atol=1e-12)


@DTYPES
def test_hidden_states_of_kept_channels_survive_compaction(dtype):
    student, inputs = make_student(dtype=dtype), make_batch()
    groups, masks = masked(student, UNEVEN)
    with torch.no_grad():
        before = student(**unlabelled(inputs), output_hidden_states=True).hidden_states
        compact(student, groups, masks, plan=UNEVEN)
        after = student(**unlabelled(inputs), output_hidden_states=True).hidden_states
    kept = masks["hidden"]
    for old, new in zip(before, after, strict=True):
        assert_same_logits(new, old[..., kept])
        assert old[..., ~kept].abs().max() == 0


@pytest.mark.parametrize("task", TASKS)
def test_compactions_add_up(task):
    student, inputs = make_student(task, dtype=torch.float64), make_batch(task)
    steps = (
        WidthPlan.uniform(24, 2, LayerWidths(4, 6, 40)),
        WidthPlan(24, (LayerWidths(3, 6, 40), LayerWidths(2, 4, 9))),
        WidthPlan(11, (LayerWidths(1, 5, 8), LayerWidths(2, 3, 9))),
    )
    for seed, plan in enumerate(steps):
        groups, masks = masked(student, plan, seed)
        expected = logits_of(student, inputs)
        compact(student, groups, masks, plan=plan)
        assert_same_logits(logits_of(student, inputs), expected)
        assert student.config.softmax_head_dim == 8


def test_masking_in_two_rounds_equals_masking_at_once():
    once, twice, inputs = make_student(dtype=torch.float64), make_student(dtype=torch.float64), make_batch()
    groups, first = masked(twice, UNEVEN)
    narrower = WidthPlan(9, (LayerWidths(2, 4, 8), LayerWidths(1, 5, 30)))
    second = choose_masks(random_scores(groups, seed=5), first, plan=narrower)
    apply_masks(once, groups, second)
    compact(twice, groups, first, plan=UNEVEN)
    kept_of_first = {name: second[name][first[name]] for name in second}
    groups = encoder_groups(twice)
    apply_masks(twice, groups, kept_of_first)
    assert kept_plan(kept_of_first) == narrower
    compact(twice, groups, kept_of_first, plan=narrower)
    assert_same_logits(logits_of(twice, inputs), logits_of(once, inputs))


# What a compacted student is


@pytest.mark.parametrize("plan", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
@pytest.mark.parametrize("task", TASKS)
def test_a_compacted_student_is_like_one_built_at_those_widths(task, plan, tmp_path):
    student, inputs = make_student(task), make_batch(task)
    groups, masks = masked(student, plan)
    compact(student, groups, masks, plan=plan)
    del student.projections
    fresh = type(student)(copy.deepcopy(student.config)).eval()
    fresh.load_state_dict(student.state_dict())
    assert torch.equal(logits_of(fresh, inputs), logits_of(student, inputs))
    for (name, module), (_, expected) in zip(student.named_modules(), fresh.named_modules(), strict=True):
        assert module.extra_repr() == expected.extra_repr(), name
        for attribute in ("num_attention_heads", "attention_head_size", "all_head_size", "scaling"):
            assert getattr(module, attribute, None) == getattr(expected, attribute, None), (name, attribute)
    student.save_pretrained(tmp_path)
    assert torch.equal(logits_of(type(student).from_pretrained(tmp_path).eval(), inputs), logits_of(student, inputs))


def test_modules_stay_and_parameters_are_contiguous_and_smaller():
    student = make_student()
    modules = list(student.modules())
    before = {name: parameter.numel() for name, parameter in student.named_parameters()}
    groups, masks = masked(student, UNIFORM)
    compact(student, groups, masks, plan=UNIFORM)
    assert all(old is new for old, new in zip(modules, student.modules(), strict=True))
    assert all(parameter.is_contiguous() and parameter.is_leaf for parameter in student.parameters())
    shrunk = {name for name, parameter in student.named_parameters() if parameter.numel() < before[name]}
    assert set(before) - shrunk == {"cls.predictions.bias"}
    assert not student.config.dropped_hidden_channels
    assert [norm.dropped_channels for norm in modules_of(student, HomoBertLayerNorm)] == [()] * 6


@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_stays_tied_or_untied(tied):
    student = make_student(tie_word_embeddings=tied)
    groups, masks = masked(student, UNIFORM)
    decoder = student.cls.predictions.decoder.weight.detach()[:, masks["hidden"]]
    compact(student, groups, masks, plan=UNIFORM)
    assert (student.get_output_embeddings().weight is student.get_input_embeddings().weight) == tied
    assert torch.equal(student.cls.predictions.decoder.weight, decoder)
    assert (student.cls.predictions.decoder.bias is student.cls.predictions.bias) == tied


def test_projections_lose_the_students_channels_only():
    student = make_student()
    before = {name: parameter.detach().clone() for name, parameter in student.projections.named_parameters()}
    groups, masks = masked(student, UNEVEN)
    compact(student, groups, masks, plan=UNEVEN)
    assert len(before) == 3
    for name, parameter in student.projections.named_parameters():
        assert parameter.shape == (32, 19)
        assert torch.equal(parameter, before[name][:, masks["hidden"]])


def test_what_was_kept_is_told():
    student = make_student()
    shapes = {name: parameter.shape for name, parameter in student.named_parameters()}
    groups, masks = masked(student, UNEVEN)
    kept = compact(student, groups, masks, plan=UNEVEN)
    assert kept.keys() == kept_indices(groups, masks).keys()
    for name, parameter in student.named_parameters():
        expected = list(shapes[name])
        for dim, mask in kept.get(name, {}).items():
            expected[dim] = int(mask.sum())
        assert list(parameter.shape) == expected


def test_frozen_parameters_stay_frozen():
    student = make_student()
    student.bert.embeddings.requires_grad_(False)
    frozen = {name for name, parameter in student.named_parameters() if not parameter.requires_grad}
    groups, masks = masked(student, UNIFORM)
    compact(student, groups, masks, plan=UNIFORM)
    assert {name for name, parameter in student.named_parameters() if not parameter.requires_grad} == frozen != set()


# The optimizer follows

OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1, fused=False),
    "adamw fused": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1, fused=True),
    "amsgrad": lambda groups: torch.optim.AdamW(groups, weight_decay=0.1, amsgrad=True),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=0.1),
}


class Run:
    """The trainer's order of one step, without Trainer: score nothing, step, zero what is dropped."""

    def __init__(self, optimizer: str = "adamw", dtype: torch.dtype = torch.float32):
        self.student = make_student(dtype=dtype).train()
        self.masks = full_masks(encoder_groups(self.student))
        plain = [p for name, p in self.student.named_parameters() if p.dim() == 1]
        decayed = [p for name, p in self.student.named_parameters() if p.dim() > 1]
        groups = [{"params": decayed, "lr": 2e-3}, {"params": plain, "lr": 1e-3, "weight_decay": 0.0}]
        self.optimizer = OPTIMIZERS[optimizer](groups)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 - step / 100)
        self.num_steps = 0
        weights = {"mlm": 1.0, "kl": 1.0, "hidden": 1.0, "embedding": 1.0, "attention": 0.0}
        teacher = FrozenTeacher(to_student(make_student()).to(dtype))
        self.distillation = Distillation(self.student, teacher, weights=weights, kept_heads=lambda layer: None)

    def mask(self, plan: WidthPlan, seed: int = 0) -> None:
        groups = encoder_groups(self.student)
        self.masks = choose_masks(random_scores(groups, seed), full_masks(groups), plan=plan)
        apply_masks(self.student, groups, self.masks)

    def compact(self) -> None:
        plan = kept_plan(self.masks)
        compact(self.student, encoder_groups(self.student), self.masks, plan=plan, optimizer=self.optimizer)
        self.masks = full_masks(encoder_groups(self.student))

    def step(self) -> float:
        inputs = make_batch(seed=self.num_steps)
        terms, _ = self.distillation.terms(self.student, inputs, self.distillation.count(inputs))
        loss = self.distillation.total(terms)
        loss.backward()
        groups = encoder_groups(self.student)
        zero_dropped(gradients(self.student), groups, self.masks)
        nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        self.optimizer.step()
        zero_dropped({name: p.data for name, p in self.student.named_parameters()}, groups, self.masks)
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.num_steps += 1
        return float(loss.detach())


def optimizer_state(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    return {
        name: {key: value.clone() for key, value in run.optimizer.state[parameter].items() if torch.is_tensor(value)}
        for name, parameter in run.student.named_parameters()
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_moments_of_kept_weights_and_step_counters_are_kept(optimizer):
    run = Run(optimizer)
    for _ in range(3):
        run.step()
    run.mask(UNEVEN)
    before, kept = optimizer_state(run), kept_indices(encoder_groups(run.student), run.masks)
    settings = [{k: v for k, v in group.items() if k != "params"} for group in run.optimizer.param_groups]
    run.compact()
    after = optimizer_state(run)
    assert after.keys() == before.keys()
    assert len(run.optimizer.state) == len(after)
    for name, parameter in run.student.named_parameters():
        assert after[name].keys() == before[name].keys() != set()
        for key, value in before[name].items():
            if key == "step":
                assert after[name][key] == value == 3
                continue
            for dim, mask in kept.get(name, {}).items():
                value = value.index_select(dim, mask.nonzero().flatten())
            assert after[name][key].shape == parameter.shape
            assert torch.equal(after[name][key], value)
    assert [{k: v for k, v in group.items() if k != "params"} for group in run.optimizer.param_groups] == settings
    assert {id(p) for group in run.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in run.student.parameters()
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_parameter_moves_on_and_the_scheduler_still_steers(optimizer):
    run = Run(optimizer)
    run.step()
    run.mask(UNIFORM)
    run.compact()
    before = {name: parameter.detach().clone() for name, parameter in run.student.named_parameters()}
    run.step()
    stuck = {name for name, parameter in run.student.named_parameters() if torch.equal(parameter, before[name])}
    # A key's bias shifts all scores of a query alike, so it has no gradient but noise.
    assert {name for name in stuck if not name.endswith("key.bias")} == set()
    assert [group["lr"] for group in run.optimizer.param_groups] == pytest.approx([2e-3 * 0.98, 1e-3 * 0.98])
    assert run.scheduler.get_last_lr() == [group["lr"] for group in run.optimizer.param_groups]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "dtype"), [*((name, torch.float32) for name in OPTIMIZERS), ("adamw", torch.float64)], ids=str
)
def test_the_loss_goes_on_as_without_compaction(optimizer, dtype):
    runs = Run(optimizer, dtype), Run(optimizer, dtype)
    for run in runs:
        for _ in range(3):
            run.step()
        run.mask(WidthPlan(20, (LayerWidths(3, 6, 48), LayerWidths(2, 7, 50))))
        run.step()
    runs[1].compact()
    curves = [[run.step() for _ in range(20)] for run in runs]
    assert curves[1] == pytest.approx(curves[0], rel=2e-5 if dtype == torch.float32 else 1e-9)
    assert curves[0][-1] < curves[0][0]


@pytest.mark.slow
def test_the_loss_goes_on_through_several_compactions():
    runs = Run(dtype=torch.float64), Run(dtype=torch.float64)
    plans = (WidthPlan.uniform(24, 2, LayerWidths(4, 6, 40)), UNEVEN)
    scores = random_scores(encoder_groups(runs[0].student), seed=7)
    curves: list[list[float]] = [[], []]
    for plan in plans:
        masked_run, compacted_run = runs
        kept = full_masks(encoder_groups(masked_run.student)) if plan is plans[0] else masked_run.masks
        masked_run.masks = choose_masks(scores, kept, plan=plan)
        apply_masks(masked_run.student, encoder_groups(masked_run.student), masked_run.masks)
        compacted_run.masks = {name: mask[kept[name]] for name, mask in masked_run.masks.items()}
        apply_masks(compacted_run.student, encoder_groups(compacted_run.student), compacted_run.masks)
        compacted_run.compact()
        for run, curve in zip(runs, curves, strict=True):
            curve.extend(run.step() for _ in range(5))
    assert curves[1] == pytest.approx(curves[0], rel=1e-9)


def test_an_optimizer_without_state_follows_too():
    run = Run("sgd")
    run.mask(UNIFORM)
    run.compact()
    assert not run.optimizer.state
    before = run.student.bert.embeddings.word_embeddings.weight.detach().clone()
    run.step()
    assert len(run.optimizer.state) == len(list(run.student.parameters()))
    assert not torch.equal(run.student.bert.embeddings.word_embeddings.weight, before)


def test_parameters_of_others_stay_with_the_optimizer():
    student, other = make_student(), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([*student.parameters(), other])
    groups, masks = masked(student, UNIFORM)
    compact(student, groups, masks, plan=UNIFORM, optimizer=optimizer)
    assert any(parameter is other for parameter in optimizer.param_groups[0]["params"])


def test_state_that_can_not_be_sliced_is_refused():
    student = make_student()
    groups, masks = masked(student, UNIFORM)
    optimizer = torch.optim.Adafactor(student.parameters())
    student(**make_batch() | {"attention_mask": None}).loss.backward()
    optimizer.step()
    with pytest.raises(
        ValueError, match="Adafactor keeps 'row_var' of shape .* can't be pruned alike; use an optimizer"
    ):
        compact(student, groups, masks, plan=UNIFORM, optimizer=optimizer)


def test_without_a_slice_rule_state_is_dropped():
    run = Run()
    run.step()
    name = "bert.encoder.layer.0.intermediate.dense.bias"
    old = dict(run.student.named_parameters())[name]
    replace_parameters(run.student, {name: torch.ones(64)}, plan=FULL, optimizer=run.optimizer)
    new = dict(run.student.named_parameters())[name]
    assert old not in run.optimizer.state
    assert new not in run.optimizer.state
    assert any(parameter is new for parameter in run.optimizer.param_groups[1]["params"])
    assert torch.equal(new, torch.ones(64))


# When, and what is written down


@pytest.mark.parametrize(
    ("kept", "threshold", "expected"),
    [
        (FULL, 0.0, False),
        (FULL, 1.0, False),
        (narrowed(intermediate_size=63), 0.0, True),
        (narrowed(intermediate_size=63), 0.5, False),
        (narrowed(intermediate_size=32), 0.13, False),
        (narrowed(intermediate_size=32), 0.12, True),
        (UNIFORM, 1.0, False),
    ],
)
def test_compaction_waits_for_enough(kept, threshold, expected):
    assert is_worthwhile(FULL, kept, threshold=threshold) is expected


def test_the_threshold_is_a_share_of_the_macs():
    # 4·32·32 for the projections, 2·128·32 for the two attention products, 2·32·64 for the FFN: 16384 a layer.
    assert encoder_macs(FULL) == 2 * 16384
    assert encoder_macs(narrowed(intermediate_size=32)) == 2 * 14336
    removable = 1 - 14336 / 16384
    assert removable == 0.125
    assert is_worthwhile(FULL, narrowed(intermediate_size=32), threshold=0.125)
    assert not is_worthwhile(FULL, narrowed(intermediate_size=32), threshold=0.126)


@pytest.mark.parametrize("plan", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
def test_a_plan_is_written_into_a_configuration(plan):
    config = HomoBertConfig(num_hidden_layers=2, per_layer_config={0: {"intermediate_size": 3}})
    write_plan(config, plan)
    assert config.hidden_size == plan.hidden_size
    assert config.is_heterogeneous is not plan.is_uniform
    for index, layer in enumerate(plan.layers):
        view = layer_config(config, index)
        assert dataclasses.astuple(layer) == (view.num_attention_heads, view.head_dim, view.intermediate_size)


def test_widths_are_read_off_the_parameters():
    widths = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 6}
    student = to_student(make_teacher(**widths))
    student.bert.encoder.layer[0].intermediate.dense.weight = nn.Parameter(torch.zeros(4, 8))
    student.bert.encoder.layer[0].output.dense.weight = nn.Parameter(torch.zeros(8, 4))
    set_widths(student, WidthPlan.uniform(8, 1, LayerWidths(2, 4, 4)))
    layer = student.bert.encoder.layer[0]
    assert (layer.intermediate.dense.out_features, layer.output.dense.in_features) == (4, 4)
    assert student.config.intermediate_size == 4
