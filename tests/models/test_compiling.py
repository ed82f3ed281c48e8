"""Layers that are compiled once for all widths, and that compute what layers as they are do."""

import copy
import logging
import re
from typing import Any

import pytest
import torch
from run_traces import OnStep, assert_close_run
from students import UNEVEN, logits_of, make_inputs, make_student, sliced
from tiny_architectures import rows_for, tiny_architecture_teacher
from tiny_models import WIDE_WINDOW
from tiny_trainers import SIXTEENTH
from torch._dynamo.utils import counters

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.compiling import compile_layers, compiling_problem
from homodistil_hf.training.distillation_trainer import STEPS_OF_COMPILING

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiling_problem() is not None, reason=str(compiling_problem())),
]
OF_EACH_LAYER = ("bert", "distilbert", "mpnet", "modernbert", "deberta-v2", "nomic_bert", "gte", "gemma3_text")
"""Architectures whose layers have code of their own; the layers of all others are written as one of these is."""
COMPILED = {"torch_compile": True, "torch_compile_backend": "eager"}


@pytest.fixture(autouse=True)
def _nothing_is_compiled_yet():
    """At its limit of variants torch would go on uncompiled, with a warning."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def compilations() -> tuple[int, int]:
    """Graphs so far, and pieces of code that were compiled, with a graph or without."""
    return counters["stats"]["unique_graphs"], counters["frames"]["total"]


def widths_at_each_step(make_trainer: Any, **settings: Any) -> tuple[HomoDistilTrainer, list[Any], list[Any]]:
    """A trained trainer, the widths after each of its steps, and what was compiled by then."""
    trainer, widths, compiled = make_trainer(**settings), [], []
    trainer.add_callback(OnStep(lambda step: (widths.append(trainer.kept), compiled.append(compilations()))))
    trainer.train()
    return trainer, widths, compiled


def test_a_run_of_many_widths_is_compiled_in_its_first_steps(make_trainer, caplog):
    settings = WIDE_WINDOW | {"student": SIXTEENTH, "max_steps": 40}
    plain, expected, none = widths_at_each_step(make_trainer, **settings)
    assert none == [(0, 0)] * 40
    caplog.set_level(logging.INFO, "homodistil_hf")
    trainer, widths, compiled = widths_at_each_step(make_trainer, **settings, **COMPILED)
    assert widths == expected
    assert len(set(widths)) > 25
    assert_close_run(trainer, plain)
    num_graphs, _ = compiled[-1]
    assert 0 < num_graphs <= 12
    assert set(compiled[STEPS_OF_COMPILING - 1 :]) == {compiled[-1]}
    (said,) = [record.getMessage() for record in caplog.records if "torch_compile" in record.getMessage()]
    assert re.fullmatch(r"torch_compile: compiling took [1-9]\d* s of the first steps", said)


@pytest.mark.parametrize("name", OF_EACH_LAYER)
def test_every_kind_of_layer_prunes_as_it_does_uncompiled(trained, name):
    architecture = ARCHITECTURES[name]
    head = architecture.heads[0]
    settings = WIDE_WINDOW | {"student": "macs=0.15", "max_steps": 4, "per_device_train_batch_size": 4}
    settings |= {"hidden_weight": 0.0, "embedding_weight": 0.0}  # without states there is less to compile
    plain, compiled = (
        trained(model=tiny_architecture_teacher(architecture, head), **settings, **rows_for(head), **how)
        for how in ({}, COMPILED)
    )
    assert compilations()[0] > 0
    assert_close_run(compiled, plain)
    assert compiled.kept == compiled.plan != compiled.full


def test_what_was_compiled_is_what_runs():
    """By a backend whose code is wrong on purpose; copies, which exports are, run as they are."""

    def wrong(graph: Any, inputs: Any) -> Any:
        return lambda *args: tuple(1.5 * out if torch.is_tensor(out) else out for out in graph.forward(*args))

    student = make_student().eval()
    inputs, before = make_inputs(student.config), logits_of(student)
    compile_layers(student, backend="eager")
    torch.testing.assert_close(logits_of(student), before)
    sliced(student, UNEVEN)
    narrow = copy.deepcopy(student)
    torch.testing.assert_close(logits_of(student, inputs), logits_of(narrow, inputs))
    compile_layers(student, backend=wrong)
    assert not torch.allclose(logits_of(student, inputs), logits_of(narrow, inputs), atol=0.1)


def test_other_code_of_the_process_stays_compiled():
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    own = torch.compile(lambda values: values.sin() + 1, backend=backend)
    own(torch.zeros(3))
    student = make_student()
    compile_layers(student, backend="eager")
    logits_of(student)
    own(torch.zeros(3))
    assert len(graphs) == 1
