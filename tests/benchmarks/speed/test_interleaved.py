"""Trainers that go on one step at a time, each in its turn."""

import threading

import pytest
import torch
from transformers import TrainerCallback

from benchmarks.speed.interleaved import GatedRun, interleave


class Recorder:
    """A variant that writes down when it was its turn."""

    def __init__(self, name, turns):
        self.name, self.turns = name, turns

    def advance(self):
        self.turns.append(self.name)
        return float(len(self.turns))


class Steps(TrainerCallback):
    """Writes down what a trainer does, and in which thread."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def on_step_end(self, args, state, control, **kwargs):
        self.log.append((self.name, state.global_step, threading.current_thread().name, torch.get_num_threads()))


@pytest.fixture
def runs(make_trainer, tmp_path):
    opened = []

    def start(name, log=None, **settings):
        callbacks = [Steps(name, log)] if log is not None else []
        trainer = make_trainer(output_dir=str(tmp_path / name), max_steps=4, callbacks=callbacks, **settings)
        opened.append(GatedRun(name, trainer))
        return opened[-1]

    yield start
    for run in opened:
        run.close()


def test_every_variant_has_one_turn_a_round_in_changing_order():
    turns = []
    seconds = interleave({name: Recorder(name, turns) for name in "abc"}, rounds=5, warmup_rounds=3)
    rounds = [tuple(turns[start : start + 3]) for start in range(0, len(turns), 3)]
    assert [sorted(names) for names in rounds] == [["a", "b", "c"]] * 8
    assert len(set(rounds)) > 2
    assert {name: len(values) for name, values in seconds.items()} == {"a": 5, "b": 5, "c": 5}
    assert min(min(values) for values in seconds.values()) == 10.0  # the first nine turns are warm-up


def test_a_turn_is_one_step_of_one_trainer(runs):
    log = []
    one, other = runs("one", log), runs("other", log)
    assert log == []
    durations = [one.advance(), other.advance(), one.advance()]
    assert [(name, step) for name, step, _, _ in log] == [("one", 1), ("other", 1), ("one", 2)]
    assert {thread.split("_")[0] for _, _, thread, _ in log} == {"one", "other"}
    assert {threads for _, _, _, threads in log} == {torch.get_num_threads()}
    assert min(durations) > 0
