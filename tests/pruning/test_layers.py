"""The layers that stay are those that are missed most; whoever asks finds the student as it was."""

import math

import pytest
from students import logits_of, make_batch, make_student
from tiny_architectures import tiny_architecture_teacher

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_student
from homodistil_hf.pruning.layers import choose_layers, without_layers


def test_layers_leave_one_by_one_each_time_the_one_that_is_missed_least():
    student = make_student(num_hidden_layers=4)
    costs, asked = {0: 1.0, 1: 0.5, 2: 4.0, 3: math.nan}, []

    def distances(rests: list[tuple[int, ...]]) -> list[float]:
        asked.append(rests)
        left = [set(range(4)) - set(rest) for rest in rests]
        # without 0 and 1 both it is far away
        return [sum(costs[layer] for layer in some) + 9.0 * ({0, 1} <= some) for some in left]

    assert choose_layers(student, 2, distances) == (0, 3)
    assert asked == [[(1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)], [(2, 3), (0, 3), (0, 2)]]


def test_layers_can_not_be_chosen_where_nothing_is_finite():
    with pytest.raises(FloatingPointError, match="use bf16 or float32 instead of fp16"):
        choose_layers(make_student(num_hidden_layers=3), 2, lambda rests: [math.nan] * len(rests))


def test_layers_that_were_left_out_for_a_moment_are_back_whatever_happens():
    student = make_student(num_hidden_layers=3)
    plain = logits_of(student, make_batch())

    def interrupted() -> None:
        with without_layers(student, (0, 2)):
            assert not logits_of(student, make_batch()).equal(plain)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert logits_of(student, make_batch()).equal(plain)


def test_a_first_layer_that_is_built_otherwise_stays():
    architecture = ARCHITECTURES["modernbert"]
    depth = {architecture.named("num_hidden_layers"): 3}
    student = to_student(tiny_architecture_teacher(architecture, architecture.heads[0], **depth))
    assert architecture.keeps_first_layer(student.config)
    assert choose_layers(student, 1, lambda rests: [1.0] * len(rests)) == (0,)
