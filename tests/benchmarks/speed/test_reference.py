"""The loops compute what our trainer computes: the same losses, scores and masks."""

import itertools
import json

import pytest
import torch
from bench_shapes import SHAPE

from benchmarks.speed import variants
from benchmarks.speed.settings import BenchSettings, make_workload
from benchmarks.speed.whole_run import Stretch


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
    trainers[1].args.num_scoring_batches = 0  # as the loops
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


def test_the_strong_loops_masks_are_the_plain_loops(tmp_path):
    own = settings(student="macs=0.3")
    work = make_workload(own, num_steps=2)
    plain, strong = (make(own, work, tmp_path) for make in (variants.plain_loop, variants.strong_loop))
    for loop in (plain, strong):
        before = [weights.clone() for weights in loop.student.parameters()]
        loop.apply_masks()
        assert all(map(torch.equal, loop.student.parameters(), before))  # nothing is dropped yet
        loop.prune_to(own.target)
        loop.apply_masks()
    weights = plain.student.state_dict()
    for name, values in strong.student.state_dict().items():
        assert torch.equal(values, weights[name]), name
