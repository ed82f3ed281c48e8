"""Trainers that go on one step at a time, each in its turn."""

import threading
from contextlib import contextmanager

import pytest
import torch
from tiny_models import GRADUAL
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


def test_what_a_step_runs_within_is_entered_in_its_thread(runs):
    seen = []

    @contextmanager
    def within():
        seen.append(threading.current_thread().name)
        yield
        seen.append("left")

    run = runs("profiled")
    run.advance(within())
    run.advance()
    assert [name.split("_")[0] for name in seen] == ["profiled", "left"]


def test_a_training_that_is_over_says_so(runs):
    run = runs("short")
    for _ in range(3):
        run.advance()
    with pytest.raises(RuntimeError, match="short ended after 4 steps; give it more data"):
        run.advance()


def test_errors_of_the_training_reach_the_main_thread(runs):
    run = runs("failing", **GRADUAL)
    run.advance()
    run.trainer.data_collator = None
    run.trainer.pruner.scores = None
    with pytest.raises(AttributeError, match="update"):
        run.advance()
