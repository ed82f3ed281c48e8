"""The loops compute what our trainer computes: the same losses, scores and masks."""

import itertools
import json

import pytest
import torch
from bench_shapes import SHAPE
from methods_here import needs

from benchmarks.speed import variants
from benchmarks.speed.settings import BenchSettings, make_workload
from benchmarks.speed.whole_run import Stretch
from homodistil_hf.models.widths import LayerWidths, WidthPlan


def settings(**changes):
    defaults = {"batch_size": 4, "length": 16, "max_steps": 10, "dtype": "float32", "multiple": 1, "rounds": 1}
    return BenchSettings(shape=json.dumps(SHAPE), **defaults | changes)


@pytest.fixture(params=itertools.product((variants.plain_loop, variants.strong_loop), (0.0, 1.0)))
def pair(request, tmp_path):
    """A loop and our trainer after one step on the same batch."""
    make_loop, attention_weight = request.param
    own = settings(attention_weight=attention_weight, accumulation_steps=2, max_steps=1)
    work = make_workload(own, num_steps=2)
    with torch.no_grad():  # farther apart, so that every term counts
        for parameter in work.start.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    trainers = (
        make_loop(own, work, tmp_path / "loop"),
        variants.our_trainer(own, work, Stretch(1, own.full), tmp_path / "ours"),
    )
    for scores in trainers[1].pruner.scores.state.values():
        scores.zero_()  # random, to bring a student to any place
    for trainer in trainers:
        trainer.train()
    return trainers


def test_every_term_of_the_loss_is_ours(pair):
    loop, ours = ({k: v for k, v in t.state.log_history[0].items() if k.startswith("loss")} for t in pair)
    assert loop == pytest.approx(ours, rel=2e-5)
    names = {"loss", "loss_mlm", "loss_kl", "loss_hidden", "loss_embedding"}
    assert loop.keys() - {"loss_attention"} == names
    assert min(loop.values()) > 1e-3
    assert ("loss_attention" in loop) == bool(pair[0].attention_weight)


def test_scores_are_ours(pair):
    loop, ours = pair
    for name, scores in ours.pruner.scores.state.items():
        if name != "hidden":  # ours also counts the projections
            torch.testing.assert_close(loop.unit_scores[name], scores, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("make_loop", [variants.plain_loop, variants.strong_loop])
def test_masks_follow_the_schedule_and_are_multiplied(make_loop, tmp_path):
    own = settings(pruning_interval_steps=2, pruning_end_fraction=0.5, student="macs=0.3")
    trainer = make_loop(own, make_workload(own, num_steps=12), tmp_path)
    trainer.train()
    for layer in range(2):
        dropped = ~trainer.masks[f"ffn.{layer}"]
        assert int((~dropped).sum()) == own.target.layers[layer].intermediate_size
        trainer.apply_masks()
        parameters = dict(trainer.student.named_parameters())
        assert not parameters[f"bert.encoder.layer.{layer}.intermediate.dense.weight"][dropped].any()
        assert parameters[f"bert.encoder.layer.{layer}.intermediate.dense.weight"][~dropped].any(1).all()
        assert not parameters[f"bert.encoder.layer.{layer}.output.dense.weight"][:, dropped].any()


@pytest.mark.parametrize("place", ["start", "half", "end"])
def test_a_held_trainer_keeps_its_widths_and_its_work(place, tmp_path):
    own = settings(pruning_interval_steps=1)
    plan = {"start": own.full, "half": WidthPlan.uniform(24, 2, LayerWidths(4, 6, 48)), "end": own.target}[place]
    trainer = variants.our_trainer(own, make_workload(own, num_steps=12), Stretch(1, plan), tmp_path)
    before = {name: scores.clone() for name, scores in trainer.pruner.scores.state.items()}
    trainer.train()
    assert trainer.pruner.kept == trainer.kept == plan
    assert trainer.state.global_step == 10
    scored = [not torch.equal(scores, before[name]) for name, scores in trainer.pruner.scores.state.items()]
    assert all(scored) == any(scored) == (plan != own.target)  # nobody scores units once the plan is reached


def test_teachers_share_their_memory(tmp_path):
    own = settings(dtype="bfloat16")
    work = make_workload(own, num_steps=2)
    place = Stretch(1, own.full)
    one, other = (variants.our_trainer(own, work, place, tmp_path / name) for name in ("one", "other"))
    expected = one.distillation.teacher(input_ids=torch.ones(1, 4, dtype=torch.long)).logits
    variants.share_teacher(one, other)
    theirs = {
        p.data_ptr() for form in ("exact", "fast") for p in getattr(other.distillation.teacher, form).parameters()
    }
    for form in ("exact", "fast"):
        assert {p.data_ptr() for p in getattr(one.distillation.teacher, form).parameters()} <= theirs
    assert torch.equal(one.distillation.teacher(input_ids=torch.ones(1, 4, dtype=torch.long)).logits, expected)


def test_the_strong_loop_does_no_more_than_it_must(tmp_path):
    own = settings(dtype="bfloat16", student="macs=0.3")
    trainer = variants.strong_loop(own, make_workload(own, num_steps=12), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    predicted = batch["labels"] != -100
    logits, states = trainer.teach({"input_ids": batch["input_ids"]}, predicted)
    assert len(logits) == int(predicted.sum())
    assert {state.dtype for state in states} == {logits.dtype} == {torch.bfloat16}
    assert logits.is_inference()
    assert trainer.student.config._attn_implementation == trainer.teacher.config._attn_implementation == "eager"
    trainer.prune_to(own.target)
    trainer.train()
    assert not any(scores.any() for scores in trainer.unit_scores.values())


@needs("baselines")
def test_one_shot_is_as_narrow_as_the_plan_and_its_scoring_is_timed(tmp_path):
    own = settings(max_steps=2)
    trainer = variants.one_shot_trainer(own, make_workload(own, num_steps=12), tmp_path)
    trainer.train()
    assert trainer.kept == own.target
    assert trainer.start_seconds > 0
